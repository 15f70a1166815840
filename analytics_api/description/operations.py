"""OPERATIONS: a line for each thing that can be asked of the API. A test fails until a new route has its line.

Those about one kind of reading are made for every kind. Limits and patterns come from the modules that check them,
never from numbers written here.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from pydantic import BaseModel, TypeAdapter

from analytics_api.analytics.fleet import FILTERS, ORDERS, SORTS
from analytics_api.analytics.links import LinkBody
from analytics_api.description import ledger_schemas, pair_schemas, schemas
from analytics_api.description.kind_schemas import MODELS
from analytics_api.http.cursors import CURSOR_CHARACTERS_MAX
from analytics_api.http.parameters import HOURS_DEFAULT, HOURS_MAX, LIMIT_DEFAULT, LIMIT_MAX
from analytics_api.readings.annulments import ID_MAX, AnnulmentBody, KindName, RestoreBody
from analytics_api.readings.lists import STALE_SECONDS_MAX
from telemetry.kinds import KINDS, VEHICLE, Kind
from telemetry.readings import DeviceId, Timestamp
from telemetry.silence import INTERVALS

JSON, CSV, HTML, TEXT, EVENTS = "application/json", "text/csv", "text/html", "text/plain", "text/event-stream"

Body = type[BaseModel] | str
"""A model of JSON, or in words what a text is."""


@dataclass(frozen=True)
class Parameter:
    """A path or query parameter."""

    name: str
    schema: Mapping[str, object]
    description: str
    place: str = "query"
    required: bool = False


@dataclass(frozen=True)
class Operation:
    """A method of a path: what it takes, what it answers, and the errors it can have besides those of any request."""

    method: str
    path: str
    tag: str
    summary: str
    answers: Mapping[str, Body]
    parameters: Sequence[Parameter] = ()
    body: type[BaseModel] | None = None
    status: int = 200
    errors: Sequence[int] = ()
    guarded: bool = True
    example: object = None


_MOMENT = TypeAdapter(Timestamp).json_schema()
_WHOLE = {"type": "integer", "minimum": 1}
HOURS = Parameter("hours", {**_WHOLE, "maximum": HOURS_MAX, "default": HOURS_DEFAULT}, "How many hours are counted")
END = Parameter("end", _MOMENT, "Where the window ends (not included); now where it is not given")
FROM = Parameter("from", _MOMENT, f"Where the window begins (included); {HOURS_DEFAULT} hours before `to` by default")
TO = Parameter(
    "to", _MOMENT, f"Where the window ends (not included); now by default. At most {HOURS_MAX} h after `from`"
)
LIMIT = Parameter(
    "limit",
    {**_WHOLE, "maximum": LIMIT_MAX},
    f"Rows in a page; {LIMIT_DEFAULT} where it is not given, in CSV all of them",
)
CURSOR = Parameter(
    "cursor",
    {"type": "string", "minLength": 1, "maxLength": CURSOR_CHARACTERS_MAX},
    "`nextCursor` of the page before; leave it out for the first page",
)
STALE = Parameter(
    "staleSeconds",
    {"type": "integer", "minimum": 0, "maximum": STALE_SECONDS_MAX},
    "Only devices whose `lastUpdated` is older than this",
)
SILENT = Parameter(
    "silent",
    {"type": "boolean"},
    f"Only devices that are silent (no reading for {INTERVALS} of their usual intervals, and for SILENT_AFTER_SECONDS "
    "at least), or only those that are not",
)
SORT = Parameter("sort", {"enum": list(SORTS), "default": next(iter(SORTS))}, "What the table is sorted by")
ORDER = Parameter(
    "order", {"enum": list(ORDERS), "default": ORDERS[0]}, "Rising or falling; vehicles without a value come last"
)
VALID_FROM = Parameter("validFrom", _MOMENT, "Which link: the one that begins then", required=True)


def _filter(name: str, description: str) -> Parameter:
    words, _ = FILTERS[name]
    any_of = "|".join(words)
    return Parameter(name, {"type": "string", "pattern": f"^({any_of})(,({any_of}))*$"}, description)


HEALTH = _filter("health", "Only vehicles of this health, or these, with commas between them")
QUALITY = _filter("quality", "Only vehicles whose figures are of this quality, or these, with commas between them")

OF_KIND = Parameter("kind", TypeAdapter(KindName).json_schema(), "Only annulments of this kind of reading")
OF_DEVICE = Parameter("deviceId", TypeAdapter(DeviceId).json_schema(), "Only annulments of this device")
ANNULMENT_ID = Parameter("annulmentId", {**_WHOLE, "maximum": ID_MAX}, "The number of the annulment", "path")

_ANNULMENT = {
    "deviceId": "METER-001", "from": "2026-01-31T14:00:00Z", "to": "2026-01-31T15:00:00Z",
    "reason": "firmware 2.1 sent Wh", "by": "Ada",
}  # fmt: skip
_LINK = {"meterId": "METER-001", "validFrom": "2026-01-31T14:00:00Z"}

_READ = (503,)
_READ_ONE = (404, 503)
_WRITE = (408, 413, 415, 503)
_CSV = "A header line with the JSON names, then a line for each row"
_EVENTS = "Events `fleet` (once a second), `problem` and `skipped`, each with JSON in `data`; it does not end"

TELEMETRY, ANALYTICS, LINKS, LEDGER, SERVICE = "Telemetry", "Analytics", "Links", "Annulled readings", "Service"


def _device(kind: Kind) -> Parameter:
    return Parameter(kind.id_field, TypeAdapter(DeviceId).json_schema(), f"The {kind.name}", "path")


def _hand_in(kind: Kind) -> Operation:
    models = MODELS[kind.name]
    return Operation(
        "post", kind.route, TELEMETRY, f"Hand in readings of {kind.many}", {JSON: models.accepted},
        body=models.readings, status=202, errors=_WRITE, example=kind.example,
    )  # fmt: skip


def _list(kind: Kind) -> Operation:
    answers: dict[str, Body] = {JSON: MODELS[kind.name].status_page, CSV: _CSV}
    return Operation(
        "get", kind.route, TELEMETRY, f"The newest reading of every {kind.name}", answers,
        (STALE, SILENT, LIMIT, CURSOR), errors=_READ,
    )  # fmt: skip


def _status(kind: Kind) -> Operation:
    return Operation(
        "get", f"{kind.device_route}/status", TELEMETRY, f"{kind.one.capitalize()}'s newest reading",
        {JSON: MODELS[kind.name].status_answer}, (_device(kind),), errors=_READ_ONE,
    )  # fmt: skip


def _history(kind: Kind) -> Operation:
    answers: dict[str, Body] = {JSON: MODELS[kind.name].reading_page, CSV: _CSV}
    return Operation(
        "get", f"{kind.device_route}/history", TELEMETRY, f"{kind.one.capitalize()}'s readings, newest first", answers,
        (_device(kind), FROM, TO, LIMIT, CURSOR), errors=_READ_ONE,
    )  # fmt: skip


# A vehicle and the meter that feeds it: these are about pairs.
VEHICLE_ID = _device(VEHICLE)

OPERATIONS: tuple[Operation, ...] = (
    *map(_hand_in, KINDS),
    *map(_list, KINDS),
    *map(_status, KINDS),
    *map(_history, KINDS),
    Operation(
        "get", "/v1/stream", TELEMETRY, "The fleet, live", {EVENTS: _EVENTS}, errors=_READ,
    ),
    Operation(
        "get", "/v1/analytics/performance/{vehicleId}", ANALYTICS, "A vehicle's efficiency and health",
        {JSON: pair_schemas.PerformanceAnswer}, (VEHICLE_ID, HOURS, END), errors=_READ_ONE,
    ),
    Operation(
        "get", "/v1/analytics/fleet", ANALYTICS, "The fleet in numbers, over full hours and the running one",
        {JSON: pair_schemas.FleetAnswer}, (HOURS, END), errors=_READ,
    ),
    Operation(
        "get", "/v1/analytics/fleet/vehicles", ANALYTICS, "The fleet's table, worst first",
        {JSON: pair_schemas.FleetVehiclePage}, (HOURS, END, SORT, ORDER, HEALTH, QUALITY, LIMIT, CURSOR),
        errors=(*_READ, 410),
    ),
    Operation(
        "put", "/v1/vehicles/{vehicleId}/meter", LINKS, "Say which meter feeds a vehicle, and when",
        {JSON: pair_schemas.MeterLinkAnswer}, (VEHICLE_ID,), LinkBody, errors=(*_WRITE, 409), example=_LINK,
    ),
    Operation(
        "delete", "/v1/vehicles/{vehicleId}/meter", LINKS, "Take back a link",
        {JSON: pair_schemas.DeletedMeterLinkAnswer}, (VEHICLE_ID, VALID_FROM), errors=_READ_ONE,
    ),
    Operation(
        "get", "/v1/vehicles/{vehicleId}/meters", LINKS, "The meters of a vehicle, oldest first",
        {JSON: pair_schemas.MeterLinkList}, (VEHICLE_ID,), errors=_READ_ONE,
    ),
    Operation(
        "post", "/v1/readings/annulments", LEDGER, "Take readings out of every answer",
        {JSON: ledger_schemas.AnnulledAnswer}, (), AnnulmentBody, errors=(*_WRITE, 404, 409), example=_ANNULMENT,
    ),
    Operation(
        "get", "/v1/readings/annulments", LEDGER, "Who annulled what and why, newest first",
        {JSON: ledger_schemas.AnnulmentPage}, (OF_KIND, OF_DEVICE, LIMIT, CURSOR), errors=_READ,
    ),
    Operation(
        "post", "/v1/readings/annulments/{annulmentId}/restore", LEDGER, "Put annulled readings back",
        {JSON: ledger_schemas.RestoredAnswer}, (ANNULMENT_ID,), RestoreBody, errors=(*_WRITE, 404, 409),
        example={"by": "Ada"},
    ),
    Operation("get", "/healthz", SERVICE, "The process lives", {JSON: schemas.AliveAnswer}, guarded=False),
    Operation(
        "get", "/readyz", SERVICE, "It can serve, or why it cannot", {JSON: schemas.ReadyAnswer}, errors=_READ,
        guarded=False,
    ),
    Operation("get", "/metrics", SERVICE, "Metrics for Prometheus", {TEXT: "Prometheus's text format"}, guarded=False),
    Operation("get", "/", SERVICE, "The live web page", {HTML: "A page"}, guarded=False),
    Operation("get", "/api", SERVICE, "This description as a page", {HTML: "A page"}, guarded=False),
    Operation("get", "/openapi.json", SERVICE, "This description", {JSON: "OpenAPI 3.1"}, guarded=False),
)  # fmt: skip
