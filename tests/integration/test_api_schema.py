"""The running API does what its description says: requests made up from the description, answers held against it.

Schemathesis makes valid and invalid requests of every operation and checks status, type, headers and JSON of each
answer, that what is invalid is refused and that what is valid is not. `sensible` holds the few things that JSON Schema
cannot say. No check is turned off.
"""

from __future__ import annotations

import json
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from itertools import count
from typing import Any, cast

import httpx
import paho.mqtt.client as paho
import pytest
import schemathesis
from hypothesis import HealthCheck, settings
from paho.mqtt.enums import CallbackAPIVersion
from schemathesis import Case, GenerationMode
from schemathesis.config import SchemathesisConfig

from analytics_api.description import kind_schemas, openapi
from tests.api_client import post
from tests.api_process import MeterRow, VehicleRow, prepared_database, running_api, store
from tests.backends import Database, new_broker
from tests.devices import meter_reading
from tests.processes import WattlineProcess
from tests.waiting import wait_until

pytestmark = pytest.mark.citus_too

EXAMPLES = 60
WAIT_SECONDS = 10.0
DEVICES = 3
NOW = datetime.now(UTC)
CSV = "text/csv"

# The server is named relative to the description ("./"); here that is the root, which Schemathesis cannot know.
DOCUMENT = json.loads(openapi.document()) | {"servers": [{"url": "/"}]}
REFUSALS = [400, 404, 405, 413, 414, 415, 431]
"""How what is invalid may be refused; a 5xx or a 403 would not say what is wrong with it."""
SCHEMA = schemathesis.openapi.from_dict(
    DOCUMENT,
    config=SchemathesisConfig.from_dict(
        {
            "seed": 1,
            "generation": {"deterministic": True, "max-examples": EXAMPLES},
            "checks": {
                "negative_data_rejection": {"expected-statuses": REFUSALS},
                "positive_data_acceptance": {"expected-statuses": [200, 202, 404, 409]},
            },
        }
    ),
)
# An answer that never ends cannot be checked as a whole; one event of it is, below.
FINITE = SCHEMA.exclude(path="/v1/stream")

_moments = count()


@pytest.fixture(scope="module")
def api(postgres_server: Database, tmp_path_factory: pytest.TempPathFactory) -> Iterator[WattlineProcess]:
    """An API that knows some devices, and a broker where somebody listens, as the gateway demands."""
    broker = new_broker(tmp_path_factory.mktemp("broker"))
    broker.start()
    try:
        with prepared_database(postgres_server) as url:
            hours = [NOW - timedelta(hours=hour) for hour in (3, 2, 1)]
            store(
                url,
                [MeterRow(f"METER-{n}", moment, 1.5) for n in range(DEVICES) for moment in hours],
                [VehicleRow(f"VEH-{n}", moment, 1.2) for n in range(DEVICES) for moment in hours],
            )
            with (
                listening(broker.port),
                running_api(tmp_path_factory.mktemp("api"), url, MQTT_URL=broker.url) as process,
            ):
                reading = meter_reading("METER-0", NOW)
                address = f"{process.http_url}/v1/telemetry/meter"
                wait_until(lambda: post(address, json=reading).status_code == 202, what="the way to the broker")
                yield process
    finally:
        broker.stop()


@contextmanager
def listening(port: int) -> Iterator[None]:
    """Somebody who is subscribed to all readings."""
    subscribed: list[object] = []
    client = paho.Client(CallbackAPIVersion.VERSION2, protocol=paho.MQTTv5)
    client.on_connect = lambda *_: cast(None, client.subscribe("v1/telemetry/#"))
    client.on_subscribe = lambda *answer: subscribed.append(answer)
    client.connect("127.0.0.1", port)
    client.loop_start()
    try:
        wait_until(lambda: subscribed, what="the subscription")
        yield
    finally:
        client.disconnect()
        client.loop_stop()


@FINITE.parametrize()
@settings(
    max_examples=EXAMPLES,
    derandomize=True,
    deadline=None,
    database=None,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.filter_too_much],
)
def test_answers_are_as_described(case: Case[Any], api: WattlineProcess) -> None:
    if case.meta is not None and case.meta.generation.mode == GenerationMode.POSITIVE:
        sensible(case)
    case.call_and_validate(base_url=api.http_url, headers=accepting(case), timeout=WAIT_SECONDS)


def sensible(case: Case[Any]) -> None:
    """Make a request that the description allows one that also makes sense: what no JSON Schema can say."""
    for name, known in (("meterId", "METER"), ("vehicleId", "VEH")):
        if name in (case.path_parameters or {}) and chance(case) % 2:  # the other half is 404
            case.path_parameters[name] = f"{known}-{chance(case) % DEVICES}"
    # A cursor is opaque: only what an answer gave is valid. The tests of lists and histories follow those.
    case.query.pop("cursor", None)
    # The pattern of a moment lets the 39th of a month pass; `from` is before `to`, and not too long before it.
    for name, hours_ago in (("from", 2), ("to", 1), ("end", 0), ("validFrom", 0)):
        if name in case.query:
            case.query[name] = stamp(NOW - timedelta(hours=hours_ago))
    if isinstance(case.body, dict | list):
        for item in case.body if isinstance(case.body, list) else [case.body]:
            make_recent(item)


def make_recent(item: Any) -> None:
    """Readings are of the last 30 days; links and stretches end after they began, and are too short to collide."""
    moment = NOW - timedelta(days=1) + timedelta(seconds=2 * next(_moments))
    if "timestamp" in item:
        item["timestamp"] = stamp(moment)
    if "validFrom" in item:
        item["validFrom"] = stamp(moment)
    if "from" in item:
        item |= {"from": stamp(moment), "to": stamp(moment + timedelta(seconds=1))}
    if item.get("validTo") is not None:
        item["validTo"] = stamp(moment + timedelta(seconds=1))


def accepting(case: Case[Any]) -> dict[str, str]:
    """CSV instead of JSON for half of the requests where there is CSV."""
    answers = case.operation.definition.raw["responses"].get("200", {}).get("content", {})
    return {"Accept": CSV} if CSV in answers and chance(case) % 4 < 2 else {}


def chance(case: Case[Any]) -> int:
    """A number that looks random, and is the same in every run."""
    return zlib.crc32(repr((case.path_parameters, case.query)).encode())


def stamp(moment: datetime) -> str:
    return moment.isoformat(timespec="microseconds").replace("+00:00", "Z")


def test_an_event_of_the_stream_is_as_described(api: WattlineProcess) -> None:
    with httpx.stream("GET", f"{api.http_url}/v1/stream", timeout=WAIT_SECONDS) as answer:
        assert answer.status_code == 200
        described = DOCUMENT["paths"]["/v1/stream"]["get"]["responses"]["200"]["content"]
        assert answer.headers["content-type"].partition(";")[0] in described
        data = next(line for line in answer.iter_lines() if line.startswith("data: "))
    event: Any = kind_schemas.FleetEvent.model_validate_json(data.removeprefix("data: "))
    assert event.totalMeters == event.totalVehicles == DEVICES
