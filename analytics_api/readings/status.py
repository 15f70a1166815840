"""`GET /v1/telemetry/{kind}/{id}/status`: the newest reading of one device."""

from __future__ import annotations

from functools import partial
from typing import LiteralString

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import BaseRoute, Route

from analytics_api.database.questions import Database
from analytics_api.http.answers import answer
from analytics_api.http.errors import UnknownDeviceError
from analytics_api.http.parameters import device_id
from analytics_api.readings.records import STATUS, Record
from telemetry.kinds import KINDS, Kind

# The newest reading of one device.
NEWEST: LiteralString = """
    SELECT {id}, {measures}, last_reading, last_updated
    FROM {status}
    WHERE {id} = %(device_id)s"""


def routes(database: Database) -> list[BaseRoute]:
    """The routes of this module."""
    return [
        Route(f"{kind.device_route}/status", partial(status, database, kind, kind.sql(NEWEST), STATUS[kind.name]))
        for kind in KINDS
    ]


async def status(database: Database, kind: Kind, newest: bytes, record: Record, request: Request) -> Response:
    """What a device measured last, and when; `newest` is the kind's statement."""
    device = device_id(request, kind.id_field)
    row = await database.row(newest, {"device_id": device})
    if row is None:
        raise UnknownDeviceError(f"No reading of {kind.name} {device} was ever stored; check the id.")
    return answer(record.json(row))
