"""`PUT` and `DELETE /v1/vehicles/{id}/meter`, `GET …/meters`: which meter feeds which vehicle, and when.

The exclusion constraints of the table decide what collides, also between two requests at once; this module never
looks first and trusts what it saw. It only finds the words for a refusal afterwards.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from functools import partial

from psycopg import AsyncConnection
from psycopg.errors import DeadlockDetected, ExclusionViolation, SerializationFailure, UniqueViolation
from psycopg.rows import TupleRow
from pydantic import BaseModel, ConfigDict
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import BaseRoute, Route

from analytics_api.analytics.pairs import MeterConvention
from analytics_api.database.questions import Database
from analytics_api.http.answers import json_response, timestamp
from analytics_api.http.audit import note_change
from analytics_api.http.bodies import BODY_BYTES_FEW, Moment, json_body, validated
from analytics_api.http.errors import (
    ConflictError,
    InvalidBodyError,
    InvalidParameterError,
    NotFoundError,
    Problem,
    UnavailableError,
)
from analytics_api.http.parameters import device_id, moment
from telemetry.readings import DeviceId, instant

ATTEMPTS_MAX = 2  # what another transaction made fail is tried once more

# A request that says nothing of the end leaves it: one that is repeated after a later link has closed this one must
# not open it again.
CHANGE = """
    UPDATE vehicle_meter_links AS link
    SET valid_to = CASE WHEN %(end_is_given)s THEN %(valid_to)s::timestamptz ELSE was.valid_to END
    FROM (
        SELECT vehicle_id, valid_from, valid_to FROM vehicle_meter_links
        WHERE vehicle_id = %(vehicle_id)s AND meter_id = %(meter_id)s AND valid_from = %(valid_from)s
        FOR UPDATE
    ) AS was
    WHERE link.vehicle_id = was.vehicle_id AND link.valid_from = was.valid_from
    RETURNING link.valid_to, was.valid_to"""
CLOSE = """
    UPDATE vehicle_meter_links SET valid_to = %(valid_from)s
    WHERE vehicle_id = %(vehicle_id)s AND valid_to IS NULL AND valid_from < %(valid_from)s
    RETURNING meter_id"""
INSERT = """
    INSERT INTO vehicle_meter_links (vehicle_id, meter_id, valid_from, valid_to)
    VALUES (%(vehicle_id)s, %(meter_id)s, %(valid_from)s, %(valid_to)s)"""
# Not the link itself, nor the one that it would close.
COLLISION = """
    SELECT vehicle_id, meter_id, valid_from, valid_to
    FROM vehicle_meter_links
    WHERE (vehicle_id = %(vehicle_id)s OR meter_id = %(meter_id)s)
        AND tstzrange(valid_from, valid_to) && tstzrange(%(valid_from)s, %(valid_to)s)
        AND NOT (vehicle_id = %(vehicle_id)s AND meter_id = %(meter_id)s AND valid_from = %(valid_from)s)
        AND NOT (vehicle_id = %(vehicle_id)s AND valid_to IS NULL AND valid_from < %(valid_from)s)
    ORDER BY valid_from
    LIMIT 1"""
# A row without a link says that the vehicle is known.
LINKS = """
    SELECT meter_id, valid_from, valid_to
    FROM vehicle_meter_links
    WHERE vehicle_id = %(vehicle_id)s
    UNION ALL
    SELECT NULL, NULL, NULL FROM vehicle_status WHERE vehicle_id = %(vehicle_id)s
    ORDER BY 2"""
# Answers show milliseconds, so a link is found by what an answer showed; one that is met exactly comes first.
DELETE = """
    DELETE FROM vehicle_meter_links
    WHERE vehicle_id = %(vehicle_id)s AND valid_from = (
        SELECT valid_from FROM vehicle_meter_links
        WHERE vehicle_id = %(vehicle_id)s
            AND (valid_from = %(valid_from)s OR date_trunc('milliseconds', valid_from) = %(valid_from)s)
        ORDER BY valid_from = %(valid_from)s DESC, valid_from LIMIT 1
    )
    RETURNING vehicle_id, meter_id, valid_from, valid_to"""
# Whether another link of the vehicle began before.
EARLIER = "SELECT FROM vehicle_meter_links WHERE vehicle_id = %(vehicle_id)s AND valid_from < %(valid_from)s LIMIT 1"
# Of each link: whether its meter has a status, and whether the vehicle that would follow that meter by its name does so
# at that time without this link.
DOUBTS = """
    WITH seen AS MATERIALIZED (
        SELECT meter_id FROM meter_status WHERE meter_id = ANY(%(meters)s::text[])
    ), namesakes AS MATERIALIZED (
        SELECT vehicle_id FROM vehicle_status
        WHERE vehicle_id = ANY(%(namesakes)s::text[]) AND vehicle_id <> %(vehicle_id)s
    )
    SELECT link.meter_id IN (SELECT meter_id FROM seen),
        EXISTS (SELECT FROM namesakes WHERE vehicle_id = link.namesake) AND NOT EXISTS (
            SELECT FROM vehicle_meter_links
            WHERE vehicle_meter_links.vehicle_id = link.namesake AND valid_from <= link.valid_from
        )
    FROM unnest(%(meters)s::text[], %(namesakes)s::text[], %(since)s::timestamptz[]) WITH ORDINALITY
        AS link (meter_id, namesake, valid_from, place)
    ORDER BY place"""


class LinkBody(BaseModel):
    """The body of a PUT: the meter, and the time in which it feeds the vehicle. validTo null: until further notice;
    left out: the same for a new link, and no change for one that is there.
    """

    model_config = ConfigDict(extra="forbid", strict=True)

    meterId: DeviceId  # noqa: N815 - the contract's name
    validFrom: Moment  # noqa: N815
    validTo: Moment | None = None  # noqa: N815


@dataclass(frozen=True)
class MeterLink:
    """A row of vehicle_meter_links: [valid_from, valid_to), None: open."""

    vehicle_id: str
    meter_id: str
    valid_from: datetime
    valid_to: datetime | None

    @property
    def time(self) -> str:
        """For a person."""
        return f"from {timestamp(self.valid_from)} {self.end}"

    @property
    def end(self) -> str:
        """For a person."""
        return "until further notice" if self.valid_to is None else f"until {timestamp(self.valid_to)}"

    @property
    def sentence(self) -> str:
        """For a person, without a full stop."""
        return f"Meter {self.meter_id} feeds vehicle {self.vehicle_id} {self.time}"

    def as_json(self) -> dict[str, object]:
        """The contract's form."""
        return {
            "vehicleId": self.vehicle_id,
            "meterId": self.meter_id,
            "validFrom": timestamp(self.valid_from),
            "validTo": None if self.valid_to is None else timestamp(self.valid_to),
        }


def routes(database: Database, convention: MeterConvention | None) -> list[BaseRoute]:
    return [
        Route("/v1/vehicles/{vehicleId}/meter", partial(put_link, database, convention), methods=["PUT"]),
        Route("/v1/vehicles/{vehicleId}/meter", partial(delete_link, database, convention), methods=["DELETE"]),
        Route("/v1/vehicles/{vehicleId}/meters", partial(links, database, convention)),
    ]


async def links(database: Database, convention: MeterConvention | None, request: Request) -> Response:
    """Every link of a vehicle, oldest first; 404 for one that has neither a link nor a reading."""
    vehicle_id = device_id(request, "vehicleId")
    rows = await database.rows(LINKS, {"vehicle_id": vehicle_id})
    if not rows:
        raise NotFoundError(f"Vehicle {vehicle_id} has neither a link nor a status; check the id.")
    found = await _told(database, convention, [MeterLink(vehicle_id, *row) for row in rows if row[0] is not None])
    return json_response(200, {"success": True, "data": found, "nextCursor": None})


async def put_link(database: Database, convention: MeterConvention | None, request: Request) -> Response:
    """Make a link, also before the first reading; put again, it gets the end that is given, if one is. The answer says
    what that changed. 409 names what is in the way.
    """
    vehicle_id = device_id(request, "vehicleId")
    link, end_is_given = _link(vehicle_id, await json_body(request, BODY_BYTES_FEW))
    note_change(request, f"meter {link.meter_id} {link.time}")
    stored, message = await database.write(partial(_store, link, end_is_given))
    (told,) = await _told(database, convention, [stored])
    return json_response(200, {"success": True, "message": message, "data": told})


async def delete_link(database: Database, convention: MeterConvention | None, request: Request) -> Response:
    """Take back the link that began at `validFrom`, as if it had never been; the answer says what feeds the vehicle
    then. Any other link stays as it is, also one that ended where this one began.
    """
    vehicle_id = device_id(request, "vehicleId")
    valid_from = moment(request, "validFrom")
    if valid_from is None:
        raise InvalidParameterError("validFrom", "is missing: it says which link")
    values = {"vehicle_id": vehicle_id, "valid_from": valid_from}

    async def delete(connection: AsyncConnection[TupleRow]) -> tuple[MeterLink, bool]:
        row = await (await connection.execute(DELETE, values)).fetchone()
        if row is None:
            raise NotFoundError(
                f"No link of vehicle {vehicle_id} begins at {timestamp(valid_from)}; "
                f"/v1/vehicles/{vehicle_id}/meters lists those that there are."
            )
        return MeterLink(*row), await (await connection.execute(EARLIER, values)).fetchone() is not None

    deleted, has_earlier = await database.write(delete)
    named = None if convention is None or has_earlier else convention.meter_of(vehicle_id)
    then = (
        "No meter is known for that time now; a PUT gives it to the right one."
        if named is None
        else f"Until its first link the vehicle follows its name again: meter {named}."
    )
    message = f"Meter {deleted.meter_id} does not feed vehicle {vehicle_id} {deleted.time} any more. {then}"
    return json_response(200, {"success": True, "message": message, "data": deleted.as_json()})


async def _told(
    database: Database, convention: MeterConvention | None, found: Sequence[MeterLink]
) -> list[dict[str, object]]:
    """Links as they are answered, each with what makes it doubtful."""
    if not found:
        return []
    namesakes = [convention and convention.vehicle_of(link.meter_id) for link in found]
    values = {
        "vehicle_id": found[0].vehicle_id,
        "meters": [link.meter_id for link in found],
        "namesakes": namesakes,
        "since": [link.valid_from for link in found],
    }
    told = []
    doubts = await database.rows(DOUBTS, values)
    for link, namesake, (is_seen, feeds_another) in zip(found, namesakes, doubts, strict=True):
        warnings = []
        if not is_seen:
            warnings.append(f"Meter {link.meter_id} has never sent a reading (or was forgotten); check the id.")
        if feeds_another:
            warnings.append(
                f"By its name meter {link.meter_id} feeds vehicle {namesake}, which has no meter while this link "
                f"holds; a link gives it one."
            )
        told.append({**link.as_json(), "warnings": warnings})
    return told


def _link(vehicle_id: str, body: object) -> tuple[MeterLink, bool]:
    """The link, and whether the body says anything of its end."""
    given = validated(LinkBody, body, "a link")
    valid_from = instant(given.validFrom)
    valid_to = None if given.validTo is None else instant(given.validTo)
    if valid_to is not None and valid_to <= valid_from:
        raise InvalidBodyError("A link ends after it began.", Problem("validTo", "must be later than validFrom"))
    return MeterLink(vehicle_id, given.meterId, valid_from, valid_to), "validTo" in given.model_fields_set


async def _store(link: MeterLink, end_is_given: bool, connection: AsyncConnection[TupleRow]) -> tuple[MeterLink, str]:
    """The link as it is stored then, and what that changed."""
    values = {**vars(link), "end_is_given": end_is_given}
    for _ in range(ATTEMPTS_MAX):
        try:
            async with connection.transaction():
                changed = await (await connection.execute(CHANGE, values)).fetchone()
                if changed is not None:
                    return _changed(link, *changed)
                closed = await (await connection.execute(CLOSE, values)).fetchone()
                await connection.execute(INSERT, values)
                return link, _made(link, None if closed is None else closed[0])
        except (ExclusionViolation, UniqueViolation):
            row = await (await connection.execute(COLLISION, values)).fetchone()
            if row is not None:
                raise _conflict(link, MeterLink(*row)) from None
        except (DeadlockDetected, SerializationFailure):
            continue
    raise UnavailableError("Other changes to these links are under way; repeat the request.")


def _made(link: MeterLink, closed_meter: str | None) -> str:
    made = f"{link.sentence}."
    return made if closed_meter is None else f"{made} Until then meter {closed_meter} feeds it: that link ends there."


def _changed(link: MeterLink, valid_to: datetime | None, was: datetime | None) -> tuple[MeterLink, str]:
    now = replace(link, valid_to=valid_to)
    if valid_to == was:
        return now, f"{now.sentence}, as before: nothing has changed."
    return now, f"{now.sentence} now; it was {replace(link, valid_to=was).end}."


def _conflict(link: MeterLink, other: MeterLink) -> ConflictError:
    if other.vehicle_id == link.vehicle_id:
        return ConflictError(
            f"{other.sentence}; a vehicle has one meter at a time. Choose a time that does not overlap."
        )
    return ConflictError(
        f"{other.sentence}; a meter feeds one vehicle at a time. To end that link, PUT it again to "
        f"/v1/vehicles/{other.vehicle_id}/meter with the same meterId and validFrom, and a validTo; to take it back, "
        f"DELETE it there."
    )
