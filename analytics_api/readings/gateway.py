"""`POST /v1/telemetry/{kind}`: readings over HTTP, handed to the broker.

202 means that the broker has the readings, for an ingestor that is subscribed; whatever else happens is an error, and
sending the same readings again is harmless. Nothing is published unless everything in a request is valid.
"""

from __future__ import annotations

import asyncio
import logging
import secrets
import time
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from functools import partial
from http import HTTPStatus
from typing import Any

from prometheus_client import CollectorRegistry, Gauge
from prometheus_client import Counter as Count
from pydantic import ValidationError
from pydantic_core import to_json
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import BaseRoute, Route

from analytics_api.http.answers import json_response, timestamp
from analytics_api.http.audit import note_change
from analytics_api.http.bodies import json_body
from analytics_api.http.errors import InvalidBodyError, Problem, UnavailableError
from config.seldom import Once
from config.settings import Settings
from mqtt.errors import LinkError, LinkRefused
from mqtt.link import Link, LinkOptions
from telemetry.kinds import KINDS, Kind
from telemetry.readings import FIELDS, ReadingWindow, instant, problems_of, timestamp_us, without_surplus
from telemetry.rules import Rules

# The promise is 3 s; what remains is for the way back.
PUBACK_SECONDS_MAX = 2.5
# After a refusal that only a person can lift; somebody may have.
REFUSED_RETRY_SECONDS = 30.0
PROBLEMS_MAX = 1_000
# 13,000 readings fit into a body: others are served after so many of them (2 ms), and so many are on their way at once.
AT_A_TIME = 500
# Some brokers take no more (AWS IoT Core: 128 KB).
MESSAGE_BYTES_MAX = 75_000

logger = logging.getLogger(__name__)


class Gateway:
    """The API's link to the broker, kept up while `running`, and the readings that go over it."""

    def __init__(self, settings: Settings, registry: CollectorRegistry) -> None:
        """Raises SettingsError when a certificate file cannot be used."""
        # 23 characters, which every broker must take (MQTT 5, section 3.1.3.1).
        client_id = f"wattline-api-{secrets.token_hex(5)}"
        by_gateway = settings.connecting_by(settings.mqtt_gateway_url)
        self._link = Link(LinkOptions.from_settings(by_gateway, client_id=client_id))
        self._may_connect = not by_gateway.has_ingestors_account
        self.rules = Rules.from_settings(settings)
        self._unknown_fields = Count(
            "wattline_api_readings_unknown_fields",
            "Readings taken without fields that are not of their kind (UNKNOWN_FIELDS=ignore)",
            ["kind"],
            registry=registry,
        )
        for kind in KINDS:
            self._unknown_fields.labels(kind.name)
        connected = Gauge("wattline_api_broker_connected", "1 while connected to the broker", registry=registry)
        connected.set_function(lambda: self._link.connection is not None)

    @asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        """Keep the link up; the broker need not be there yet."""
        task = asyncio.create_task(self._keep_up(), name="mqtt link of the API")
        try:
            yield
        finally:
            task.cancel()
            await asyncio.wait([task])

    async def _keep_up(self) -> None:
        if not self._may_connect:
            logger.error(
                "the API has the ingestor's account at the broker, and does not connect by it, because that could end "
                "the ingestor's session and lose what is queued there; set MQTT_GATEWAY_URL to an account of the API's "
                "own. Readings over HTTP are answered with 503"
            )
            return
        said = Once()
        while True:
            try:
                await self._link.run()
            except LinkRefused as error:
                if said.is_new(str(error)):
                    logger.error("%s; readings over HTTP are answered with 503", error)  # noqa: TRY400 - for people
            await asyncio.sleep(REFUSED_RETRY_SECONDS)

    def without_unknown_fields(self, kind: Kind, reading: dict[str, Any]) -> dict[str, Any]:
        """A reading that was taken, with the fields of its kind; that there were others is counted."""
        fields = FIELDS[kind.name]
        if len(reading) == len(fields):
            return reading
        self._unknown_fields.labels(kind.name).inc()
        return {name: value for name, value in reading.items() if name in fields}

    async def publish(self, messages: list[tuple[str, bytes]]) -> None:
        """Publish all, and return when the broker has taken all. Raises UnavailableError."""
        try:
            async with asyncio.timeout(PUBACK_SECONDS_MAX):
                if len(messages) == 1:
                    await self._link.publish(*messages[0])
                    return
                for start in range(0, len(messages), AT_A_TIME):
                    await self._publish_together(messages[start : start + AT_A_TIME])
        except TimeoutError:
            raise _not_taken("it did not answer in time") from None
        except LinkError as error:
            raise self._unavailable(error) from None

    async def _publish_together(self, messages: list[tuple[str, bytes]]) -> None:
        """Raises LinkError when one was not taken, once all of them have been answered."""
        publishing = (self._link.publish(topic, payload) for topic, payload in messages)
        for answer in await asyncio.gather(*publishing, return_exceptions=True):
            if isinstance(answer, BaseException):
                raise answer

    def _unavailable(self, error: LinkError) -> UnavailableError:
        logger.debug("readings over HTTP were not taken: %s", error)
        if self._link.connection is None:
            return _not_taken("it is away")
        return _not_taken("it refused them, or nobody is subscribed; is the ingestor running?")


def routes(gateway: Gateway) -> list[BaseRoute]:
    return [Route(kind.route, partial(post_readings, gateway, kind), methods=["POST"]) for kind in KINDS]


async def post_readings(gateway: Gateway, kind: Kind, request: Request) -> Response:
    """202 once the broker has taken the reading, or all readings of the array."""
    content = await json_body(request)
    rules, window = gateway.rules, gateway.rules.window(time.time())
    if isinstance(content, list):
        readings = await _validated_array(rules, kind, content, window)
        readings = [gateway.without_unknown_fields(kind, reading) for reading in readings]
        note_change(request, f"{len(readings)} readings")
        await gateway.publish(await _by_device(kind, readings))
        return _accepted("The broker has taken the readings.", {"accepted": len(readings)})
    problems, reading = _validated(rules, kind, content, window)
    if problems:
        raise _invalid(problems)
    reading = gateway.without_unknown_fields(kind, reading)
    device_id = reading[kind.id_field]
    note_change(request, f"a reading of {device_id}")
    await gateway.publish([(kind.topic_prefix + device_id, to_json(reading))])
    moment = instant(reading["timestamp"])
    return _accepted("The broker has taken the reading.", {kind.id_field: device_id, "timestamp": timestamp(moment)})


async def _validated_array(rules: Rules, kind: Kind, items: list[Any], window: ReadingWindow) -> list[dict[str, Any]]:
    """The readings of an array. Raises InvalidBodyError; whatever is in it, others are served meanwhile."""
    if not items:
        raise InvalidBodyError("The array is empty; send at least one reading.")
    problems: list[Problem] = []
    readings: list[dict[str, Any]] = []
    for index, item in enumerate(items):
        found, reading = _validated(rules, kind, item, window)
        problems += [
            Problem(f"{index}.{problem.field}" if problem.field else str(index), problem.message) for problem in found
        ]
        if len(problems) >= PROBLEMS_MAX:
            break
        readings.append(reading)
        if index % AT_A_TIME == 0:
            await asyncio.sleep(0)
    if problems:
        raise _invalid(problems)
    return readings


def _validated(rules: Rules, kind: Kind, item: object, window: ReadingWindow) -> tuple[list[Problem], dict[str, Any]]:
    """What is wrong with a reading, or the reading."""
    try:
        reading = rules.payloads[kind.name].validate_python(without_surplus(kind.name, item))
    except ValidationError as error:
        return [Problem(field, message) for field, message in problems_of(error)], {}
    try:
        refusal = window.refusal(reading["timestamp"], timestamp_us(reading["timestamp"]))
    except ValueError as error:  # there is no such day
        return [Problem("timestamp", str(error))], {}
    return ([] if refusal is None else [Problem("timestamp", refusal[1])]), reading


async def _by_device(kind: Kind, readings: list[dict[str, Any]]) -> list[tuple[str, bytes]]:
    """As few messages as may be: each holds readings of one device, and no more bytes than any broker takes."""
    messages: list[tuple[str, bytes]] = []
    devices: dict[str, list[bytes]] = {}
    sizes: Counter[str] = Counter()

    def finish(device_id: str) -> None:
        messages.append((kind.topic_prefix + device_id, b"[" + b",".join(devices.pop(device_id)) + b"]"))
        del sizes[device_id]

    for index, reading in enumerate(readings):
        device_id, encoded = reading[kind.id_field], to_json(reading)
        if sizes[device_id] and sizes[device_id] + len(encoded) > MESSAGE_BYTES_MAX:
            finish(device_id)
        devices.setdefault(device_id, []).append(encoded)
        sizes[device_id] += len(encoded) + 1
        if index % AT_A_TIME == 0:
            await asyncio.sleep(0)
    for device_id in list(devices):
        finish(device_id)
    return messages


def _invalid(problems: list[Problem]) -> InvalidBodyError:
    which = f", the first {PROBLEMS_MAX:,} of them" if len(problems) >= PROBLEMS_MAX else ""
    return InvalidBodyError(f"Nothing was taken; correct what `errors` names{which}.", *problems[:PROBLEMS_MAX])


def _not_taken(why: str) -> UnavailableError:
    return UnavailableError(f"The broker did not take the readings: {why}. Sending them again later is harmless.")


def _accepted(message: str, data: dict[str, object]) -> Response:
    return json_response(HTTPStatus.ACCEPTED, {"success": True, "message": message, "data": data})
