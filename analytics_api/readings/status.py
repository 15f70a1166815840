"""`GET /v1/telemetry/{kind}/{id}/status`: the newest reading of one device."""

from __future__ import annotations

from functools import partial

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import BaseRoute, Route

from analytics_api.database.questions import Database
from analytics_api.http.answers import answer
from analytics_api.http.errors import NotFoundError
from analytics_api.http.parameters import device_id
from analytics_api.readings.known import KNOWN, unknown
from analytics_api.readings.layouts import STATUS
from telemetry.kinds import KINDS, Kind, SqlByKind

# The newest reading of one device.
NEWEST = SqlByKind("""
    SELECT {id}, {measures}, last_reading, last_updated
    FROM {status}
    WHERE {id} = %(device_id)s""")


def routes(database: Database) -> list[BaseRoute]:
    return [Route(f"{kind.device_route}/status", partial(status, database, kind)) for kind in KINDS]


async def status(database: Database, kind: Kind, request: Request) -> Response:
    """What a device measured last, and when."""
    device = device_id(request, kind.id_field)
    row = await database.row(NEWEST[kind.name], {"device_id": device})
    if row is None:
        raise await _no_status(database, kind, device)
    return answer(STATUS[kind.name].json(row))


async def _no_status(database: Database, kind: Kind, device: str) -> NotFoundError:
    """Why there is none."""
    if await database.row(KNOWN[kind.name], {"device_id": device}) is None:
        return unknown(kind, device)
    return NotFoundError(
        f"{kind.name.capitalize()} {device} has no status: it was forgotten, or all of its readings were annulled."
    )
