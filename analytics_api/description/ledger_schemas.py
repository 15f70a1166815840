"""The models of answers about annulled readings. See `schemas`."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from analytics_api.description.schemas import Count, Exact, Moment, Page, Success
from analytics_api.http.parameters import LIMIT_MAX
from analytics_api.readings.annulments import KindName
from telemetry.readings import DeviceId

Number = Annotated[int, Field(ge=1)]


class Change(Exact):
    """What it did to readings that left the history, or came back."""

    kind: KindName
    deviceId: DeviceId  # noqa: N815
    readings: Count
    kwh: Annotated[float, Field(description="the energy of these readings, to 4 decimals")]
    hours: Annotated[int, Field(ge=0, description="how many hours have another sum now")]
    statusChanged: Annotated[bool, Field(description="whether the newest reading is another one now, or none")]  # noqa: N815


class Annulled(Change):
    """What was annulled; `id` restores it, and is null where it was only tried."""

    id: Number | None


class Restored(Change):
    """What was restored."""

    id: Number
    left: Annotated[int, Field(ge=0, description="readings not restored: another one of their moment is stored now")]


class Annulment(Exact):
    """Readings of a device in [from, to): who annulled them, why, and what became of them."""

    id: Number
    kind: KindName
    deviceId: DeviceId  # noqa: N815
    start: Annotated[Moment, Field(alias="from")]
    end: Annotated[Moment, Field(alias="to")]
    reason: str
    by: str
    annulledAt: Moment  # noqa: N815
    readings: Count
    restored: Count
    restoredAt: Moment | None  # noqa: N815
    restoredBy: str | None  # noqa: N815


class AnnulledAnswer(Success):
    data: Annulled


class RestoredAnswer(Success):
    data: Restored


class AnnulmentPage(Page):
    data: Annotated[list[Annulment], Field(max_length=LIMIT_MAX)]
