"""`PUT /v1/vehicles/{id}/meter`, `GET /v1/vehicles/{id}/meters`: which meter feeds which vehicle, and when.

The exclusion constraints of the table decide what collides, also between two requests at once; this module never
looks first and trusts what it saw. It only finds the words for a refusal afterwards.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from datetime import datetime
from functools import partial
from typing import Annotated

from psycopg import AsyncConnection
from psycopg.errors import DeadlockDetected, ExclusionViolation, SerializationFailure, UniqueViolation
from psycopg.rows import TupleRow
from pydantic import AfterValidator, BaseModel, ConfigDict, ValidationError
from pydantic_core import PydanticCustomError
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import BaseRoute, Route

from analytics_api.database.questions import Database
from analytics_api.http.answers import answer, json_response, timestamp
from analytics_api.http.bodies import json_body
from analytics_api.http.errors import ConflictError, InvalidBodyError, Problem, UnavailableError, UnknownDeviceError
from analytics_api.http.parameters import device_id
from telemetry.readings import DeviceId, Timestamp, instant

LINK_BYTES_MAX = 10_000  # a link has 300 at most; a thousand unknown fields are complained about in 3 ms
ATTEMPTS_MAX = 2  # what another transaction made fail is tried once more

# Whoever does not speak of the end leaves it: a request that is repeated after a later link has closed this one must
# not open it again.
CHANGE = """
    UPDATE vehicle_meter_links
    SET valid_to = CASE WHEN %(end_is_given)s THEN %(valid_to)s::timestamptz ELSE valid_to END
    WHERE vehicle_id = %(vehicle_id)s AND meter_id = %(meter_id)s AND valid_from = %(valid_from)s
    RETURNING valid_to"""
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
        instant(stamp)
    except (ValueError, OverflowError):
        raise PydanticCustomError("no_such_moment", "is a moment that no calendar has") from None
    return stamp


Moment = Annotated[Timestamp, AfterValidator(_existing)]


class LinkBody(BaseModel):
    """The body of a PUT: the meter, and the time in which it feeds the vehicle. validTo null: until further notice;
    left out: the same for a new link, and no change for one that is there.
    """

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
    """Make a link, also before the first reading; put again, it gets the end that is given, if one is. 409 names what
    is in the way.
    """
    vehicle_id = device_id(request, "vehicleId")
    link, end_is_given = _link(vehicle_id, await json_body(request, LINK_BYTES_MAX))
    stored = await database.write(partial(_store, link, end_is_given))
    return answer(stored.as_json())


def _link(vehicle_id: str, body: object) -> tuple[Link, bool]:
    """The link, and whether the body says anything of its end."""
    try:
        given = LinkBody.model_validate(body)
    except ValidationError as error:
        raise InvalidBodyError("This is not a link: see errors.", *_problems(error)) from None
    valid_from = instant(given.validFrom)
    valid_to = None if given.validTo is None else instant(given.validTo)
    if valid_to is not None and valid_to <= valid_from:
        raise InvalidBodyError("A link ends after it began.", Problem("validTo", "must be later than validFrom"))
    return Link(vehicle_id, given.meterId, valid_from, valid_to), "validTo" in given.model_fields_set


def _problems(error: ValidationError) -> Iterator[Problem]:
    """Every wrong field, in the words that readings are refused with."""
    for each in error.errors(include_url=False, include_context=False, include_input=False):
        # A field's name may be the sender's invention, so it is cut and shown as plain ASCII.
        field = ascii(".".join(str(part) for part in each["loc"])[:100]).strip("'\"")
        match each["type"]:
            case "model_type":
                message = "a JSON object is expected"
            case "missing":
                message = "is missing"
            case "extra_forbidden":
                message = "is not a field of a link"
            case "string_pattern_mismatch" if field == "meterId":
                message = "1 to 100 characters of A-Z a-z 0-9 . _ : - are allowed"
            case "string_pattern_mismatch":
                message = "must be RFC 3339 with an offset, like 2026-01-31T14:00:00Z"
            case _:
                message = f"{each['msg'][0].lower()}{each['msg'][1:]}"
        yield Problem(field, message)


async def _store(link: Link, end_is_given: bool, connection: AsyncConnection[TupleRow]) -> Link:
    """The link as it is stored then."""
    values = {**vars(link), "end_is_given": end_is_given}
    for _ in range(ATTEMPTS_MAX):
        try:
            async with connection.transaction():
                changed = await (await connection.execute(CHANGE, values)).fetchone()
                if changed is not None:
                    return replace(link, valid_to=changed[0])
                await connection.execute(CLOSE, values)
                await connection.execute(INSERT, values)
                return link
        except (ExclusionViolation, UniqueViolation):
            row = await (await connection.execute(COLLISION, values)).fetchone()
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
