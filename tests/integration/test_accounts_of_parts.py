"""wattline's own parts at a broker where an account is one client: each by its own, and none by the ingestor's."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from prometheus_client import CollectorRegistry

from analytics_api.readings.gateway import Gateway
from config.settings import Settings, load_settings
from ingestor.broker_watch import BrokerWatch
from mqtt.connection import Connection
from mqtt.link import Link
from mqtt.options import LinkOptions
from tests.fake_broker import anyio_backend, nothing_left_behind  # noqa: F401 - fixtures
from tests.secure_broker import GATEWAY, INGESTOR, MONITOR, SECRET, GuardedByUs
from tests.waiting import wait_until_async
from wattline.cli import main

pytestmark = pytest.mark.anyio


@pytest.fixture(scope="module")
def broker(tmp_path_factory: pytest.TempPathFactory) -> Iterator[GuardedByUs]:
    broker = GuardedByUs(tmp_path_factory.mktemp("broker"), ["METER-001"], {"set_tcp_nodelay true": "sys_interval 1"})
    broker.start()
    yield broker
    broker.stop()


@pytest.fixture(autouse=True)
def elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where no `.env` of a developer is."""
    monkeypatch.chdir(tmp_path)


def settings(broker: GuardedByUs, **urls: str) -> Settings:
    secret = SECRET.replace(" ", "%20")
    given: dict[str, Any] = {name: broker.url_for(account, secret) for name, account in urls.items()}
    return load_settings(mqtt_tls_ca=str(broker.ca_file), **given)


async def test_the_brokers_figures_are_read_by_their_own_account(broker: GuardedByUs) -> None:
    given = settings(broker, mqtt_url=INGESTOR, mqtt_monitor_url=MONITOR)
    options = LinkOptions.from_settings(given, client_id=given.mqtt_client_id, clean_start=False)
    monitor = LinkOptions.from_settings(given.connecting_by(given.mqtt_monitor_url), client_id=given.mqtt_client_id)
    registry = CollectorRegistry()
    watch = BrokerWatch(options, registry, monitor)
    async with Link(options, subscribe=["v1/#"], before_connect=watch.introduce) as link:
        await link.wait_connected(30)
        first = link.connection
        watching = asyncio.create_task(watch.run(link))
        await wait_until_async(lambda: registry.get_sample_value("wattline_broker_dropped_total") is not None)
        assert link.connection is first
        watching.cancel()
        await asyncio.wait([watching])


async def test_the_api_does_not_connect_by_the_ingestors_account(
    broker: GuardedByUs, caplog: pytest.LogCaptureFixture
) -> None:
    """Its connection has a clean start: where the account is the client id, the ingestor's queue would be gone."""
    own = Gateway(settings(broker, mqtt_url=INGESTOR, mqtt_gateway_url=GATEWAY), CollectorRegistry())
    async with own.running():
        await wait_until_async(lambda: own._link.connection is not None, what="the API's own account gets in")
    caplog.set_level(logging.ERROR)
    options = LinkOptions.from_settings(settings(broker, mqtt_url=INGESTOR), client_id=INGESTOR, clean_start=False)
    ingestor = await Connection.open(options)
    other = Gateway(settings(broker, mqtt_url=INGESTOR), CollectorRegistry())
    async with other.running():
        await wait_until_async(lambda: "set MQTT_GATEWAY_URL to an account of the API's own" in caplog.text)
        assert other._link.connection is None
    assert ingestor.is_open
    await ingestor.disconnect()


def test_loadgen_does_not_either(
    broker: GuardedByUs, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("MQTT_URL", f"mqtts://{INGESTOR}:x@127.0.0.1:{broker.port}")
    assert main(["loadgen", "--max", "--messages", "1"]) == 2
    assert "MQTT_URL has the ingestor's own account" in capsys.readouterr().err
