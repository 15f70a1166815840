"""The models of answers and bodies about a kind of reading, made from its declaration: its status, its reading, ….

Like those of `schemas`, they describe and are held against answers in tests; no request runs through one.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Any

from pydantic import BaseModel, Field, RootModel, create_model

from analytics_api.description.schemas import Accepted, Count, Exact, Measured, Moment, Page, Success
from analytics_api.http.parameters import LIMIT_MAX
from analytics_api.live.stream import CHANGED_MAX
from telemetry.kinds import KINDS, Kind
from telemetry.readings import DeviceId, payload_type

Model = type[BaseModel]
_SEVERAL = Field(min_length=1)  # and as many as fit into a body


@dataclass(frozen=True)
class KindModels:
    """What is answered about a kind, and what may be handed in."""

    status: Model
    status_answer: Model
    status_page: Model
    reading_page: Model
    accepted: Model
    readings: Model

    @classmethod
    def of(cls, kind: Kind) -> KindModels:
        """Made once, when the program starts. Their names are part of the description."""
        status = _record(kind, "Status", _newest(kind), "lastReading", "lastUpdated")
        reading = _record(kind, "Reading", f"A stored reading of {kind.one}.", "timestamp", "ingestedAt")
        handed_in = {kind.id_field: DeviceId, "timestamp": Moment}
        taken = _model(kind.title + "Taken", Exact, "The reading that the broker has taken.", handed_in)
        return cls(
            status=status,
            status_answer=_model(kind.title + "StatusAnswer", Success, None, {"data": status}),
            status_page=_page(kind, "StatusPage", status),
            reading_page=_page(kind, "ReadingPage", reading),
            accepted=_model(kind.title + "Accepted", Success, None, {"message": str, "data": taken | Accepted}),
            readings=_readings(kind),
        )


def _newest(kind: Kind) -> str:
    measures = ", ".join(f"{measure.meaning} ({measure.unit})" for measure in kind.measures)
    return f"{kind.one.capitalize()}'s newest reading: {measures}."


def _record(kind: Kind, name: str, meaning: str, first: str, second: str) -> Model:
    """The id, the measures, two moments: what `readings/layouts.py` writes."""
    measured = {measure.name: Measured for measure in kind.measures}
    fields = {kind.id_field: DeviceId, **measured, first: Moment, second: Moment}
    return _model(kind.title + name, Exact, meaning, fields)


def _page(kind: Kind, name: str, item: Model) -> Model:
    return _model(kind.title + name, Page, None, {"data": _list_of(item, LIMIT_MAX)})


def _list_of(item: Model, most: int) -> object:
    items: Any = item
    return Annotated[list[items], Field(max_length=most)]


def _readings(kind: Kind) -> Model:
    payload: Any = payload_type(kind)
    one_or_several: Any = RootModel[payload | Annotated[list[payload], _SEVERAL]]
    meaning = f"One reading of {kind.one}, or several of any {kind.many}: all are taken or none."
    return _model(kind.title + "Readings", one_or_several, meaning, {})


def _model(name: str, base: Model, meaning: str | None, fields: Mapping[str, object]) -> Model:
    required: dict[str, Any] = {field: (shape, ...) for field, shape in fields.items()}
    return create_model(name, __base__=base, __doc__=meaning, __module__=__name__, **required)


MODELS: Mapping[str, KindModels] = {kind.name: KindModels.of(kind) for kind in KINDS}
"""By the name of the kind."""


def _fleet_event() -> Model:
    totals = {kind.total_field: Count for kind in KINDS}
    changes = {kind.many: _list_of(MODELS[kind.name].status, CHANGED_MAX) for kind in KINDS}
    more = Annotated[int, Field(ge=0, description="changed devices that are not in this event")]
    return _model(
        "FleetEvent",
        Exact,
        "The `data` of an event `fleet` of the stream: the fleet, and the devices that changed.",
        {"time": Moment, **totals, "silentDevices": Count, **changes, "more": more},
    )


FleetEvent = _fleet_event()
