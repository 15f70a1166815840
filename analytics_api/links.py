"""`PUT /v1/vehicles/{id}/meter`, `GET /v1/vehicles/{id}/meters`: which meter feeds which vehicle, and when.

The exclusion constraints of the table decide what collides, also between two requests at once; this module never
looks first and trusts what it saw. It only finds the words for a refusal afterwards.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime
from functools import partial
from typing import Annotated

from psycopg import AsyncConnection
from psycopg.errors import DeadlockDetected, ExclusionViolation, SerializationFailure, UniqueViolation
from psycopg.rows import TupleRow
from pydantic import AfterValidator, BaseModel, ConfigDict, ValidationError
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import BaseRoute, Route

from analytics_api.answers import answer, json_response, timestamp
from analytics_api.bodies import json_body
from analytics_api.database import Database
from analytics_api.errors import ConflictError, InvalidBodyError, Problem, UnavailableError, UnknownDeviceError
from analytics_api.parameters import device_id
from telemetry.readings import DeviceId, Timestamp

ATTEMPTS_MAX = 2  # what another transaction made fail is tried once more

CHANGE = """
    UPDATE vehicle_meter_links SET valid_to = %(valid_to)s
    WHERE vehicle_id = %(vehicle_id)s AND meter_id = %(meter_id)s AND valid_from = %(valid_from)s"""
CLOSE = """
    UPDATE vehicle_meter_links SET valid_to = %(valid_from)s
    WHERE vehicle_id = %(vehicle_id)s AND valid_to IS NULL AND valid_from < %(valid_from)s"""
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


def _existing(stamp: str) -> str:
    try:
        datetime.fromisoformat(stamp).astimezone(UTC)
    except OverflowError:
        raise ValueError("is a moment that no calendar has") from None
    return stamp


Moment = Annotated[Timestamp, AfterValidator(_existing)]


class LinkBody(BaseModel):
    """The body of a PUT: the meter, and the time in which it feeds the vehicle; no validTo: until further notice."""

    model_config = ConfigDict(extra="forbid", strict=True)

    meterId: DeviceId  # noqa: N815 - the contract's name
    validFrom: Moment  # noqa: N815
    validTo: Moment | None = None  # noqa: N815


@dataclass(frozen=True)
class Link:
    """A row of vehicle_meter_links: [valid_from, valid_to), None: open."""

    vehicle_id: str
    meter_id: str
    valid_from: datetime
    valid_to: datetime | None

    def as_json(self) -> dict[str, object]:
        """The contract's form."""
        return {
            "vehicleId": self.vehicle_id,
            "meterId": self.meter_id,
            "validFrom": timestamp(self.valid_from),
            "validTo": None if self.valid_to is None else timestamp(self.valid_to),
        }


def routes(database: Database) -> list[BaseRoute]:
    """The routes of this module."""
    return [
        Route("/v1/vehicles/{vehicleId}/meter", partial(put_link, database), methods=["PUT"]),
        Route("/v1/vehicles/{vehicleId}/meters", partial(links, database)),
    ]


async def links(database: Database, request: Request) -> Response:
    """Every link of a vehicle, oldest first; 404 for one that has neither a link nor a reading."""
    vehicle_id = device_id(request, "vehicleId")
    rows = await database.rows(LINKS, {"vehicle_id": vehicle_id})
    if not rows:
        raise UnknownDeviceError(f"Vehicle {vehicle_id} has no link and never sent a reading; check the id.")
    found = [Link(vehicle_id, *row).as_json() for row in rows if row[0] is not None]
    return json_response(200, {"success": True, "data": found, "nextCursor": None})


async def put_link(database: Database, request: Request) -> Response:
    """Make a link, also before the first reading; put again, it gets another end. 409 names what is in the way."""
    vehicle_id = device_id(request, "vehicleId")
    link = _link(vehicle_id, await json_body(request))
    await database.write(partial(_store, link))
    return answer(link.as_json())


def _link(vehicle_id: str, body: object) -> Link:
    try:
        given = LinkBody.model_validate(body)
        valid_from = datetime.fromisoformat(given.validFrom).astimezone(UTC)
        valid_to = None if given.validTo is None else datetime.fromisoformat(given.validTo).astimezone(UTC)
    except ValidationError as error:
        problems = [
            Problem(".".join(str(part) for part in each["loc"])[:100], each["msg"])
            for each in error.errors(include_url=False, include_context=False, include_input=False)
        ]
        raise InvalidBodyError("This is not a link: see errors.", *problems) from None
    if valid_to is not None and valid_to <= valid_from:
        raise InvalidBodyError("A link ends after it began.", Problem("validTo", "must be later than validFrom"))
    return Link(vehicle_id, given.meterId, valid_from, valid_to)


async def _store(link: Link, connection: AsyncConnection[TupleRow]) -> None:
    for _ in range(ATTEMPTS_MAX):
        try:
            async with connection.transaction():
                if (await connection.execute(CHANGE, vars(link))).rowcount == 0:
                    await connection.execute(CLOSE, vars(link))
                    await connection.execute(INSERT, vars(link))
                return
        except (ExclusionViolation, UniqueViolation):
            row = await (await connection.execute(COLLISION, vars(link))).fetchone()
            if row is not None:
                raise _conflict(link, Link(*row)) from None
        except (DeadlockDetected, SerializationFailure):
            continue
    raise UnavailableError("Other changes to these links are under way; repeat the request.")


def _conflict(link: Link, other: Link) -> ConflictError:
    until = "until further notice" if other.valid_to is None else f"until {timestamp(other.valid_to)}"
    what = f"Meter {other.meter_id} feeds vehicle {other.vehicle_id} from {timestamp(other.valid_from)} {until}"
    if other.vehicle_id == link.vehicle_id:
        return ConflictError(f"{what}; a vehicle has one meter at a time. Choose a time that does not overlap.")
    return ConflictError(
        f"{what}; a meter feeds one vehicle at a time. To end that link, PUT it again to "
        f"/v1/vehicles/{other.vehicle_id}/meter with the same meterId and validFrom, and a validTo."
    )
