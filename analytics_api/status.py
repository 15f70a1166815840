"""`GET /v1/telemetry/{meter|vehicle}/{id}/status`: the newest reading of one device."""

from __future__ import annotations

from functools import partial

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import BaseRoute, Route

from analytics_api.answers import answer
from analytics_api.database import Database
from analytics_api.errors import UnknownDeviceError
from analytics_api.parameters import device_id
from analytics_api.records import METER_STATUS, VEHICLE_STATUS

METER = """
    SELECT meter_id, kwh_consumed_ac, voltage, last_reading, last_updated
    FROM meter_status
    WHERE meter_id = %(meter_id)s"""

VEHICLE = """
    SELECT vehicle_id, soc, kwh_delivered_dc, battery_temp, last_reading, last_updated
    FROM vehicle_status
    WHERE vehicle_id = %(vehicle_id)s"""


def routes(database: Database) -> list[BaseRoute]:
    """The routes of this module."""
    return [
        Route("/v1/telemetry/meter/{meterId}/status", partial(meter_status, database)),
        Route("/v1/telemetry/vehicle/{vehicleId}/status", partial(vehicle_status, database)),
    ]


async def meter_status(database: Database, request: Request) -> Response:
    """AC energy (kWh) and voltage (V) of a meter's newest reading."""
    meter_id = device_id(request, "meterId")
    row = await database.row(METER, {"meter_id": meter_id})
    if row is None:
        raise UnknownDeviceError(f"No reading of meter {meter_id} was ever stored; check the id.")
    return answer(METER_STATUS.json(row))


async def vehicle_status(database: Database, request: Request) -> Response:
    """State of charge (%), DC energy (kWh) and battery temperature (°C) of a vehicle's newest reading."""
    vehicle_id = device_id(request, "vehicleId")
    row = await database.row(VEHICLE, {"vehicle_id": vehicle_id})
    if row is None:
        raise UnknownDeviceError(f"No reading of vehicle {vehicle_id} was ever stored; check the id.")
    return answer(VEHICLE_STATUS.json(row))
