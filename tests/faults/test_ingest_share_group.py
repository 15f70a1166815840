"""Another MQTT_SHARE_GROUP: the new filter is there before the old one goes, so nothing is published into a gap."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import paho.mqtt.client as paho
import pytest

from tests.backends import Broker
from tests.devices import Device, device, readings_of_fleet
from tests.faults.counting import assert_books_balance, assert_stored_once
from tests.faults.load import Load, publish_all
from tests.processes import WattlineProcess
from tests.waiting import wait_until

NAME = "the-same"
BACKLOG = 30_000


@pytest.fixture
def old_device(broker: Broker) -> Iterator[Device]:
    """It speaks MQTT 3.1.1, where the broker cannot say that nobody is subscribed."""
    with device(broker.port, protocol=paho.MQTTv311) as one:
        yield one


@pytest.mark.parametrize("groups", [(None, "one"), ("one", "two"), ("one", None)])
def test_a_changed_share_group_loses_nothing_that_the_broker_acknowledged(
    start_ingestor: Callable[..., WattlineProcess],
    database_url: str,
    old_device: Device,
    sql: Callable[..., list[Any]],
    groups: tuple[str | None, str | None],
) -> None:
    def start(group: str | None) -> WattlineProcess:
        settings = {} if group is None else {"MQTT_SHARE_GROUP": group}
        return start_ingestor(MQTT_CLIENT_ID=NAME, **settings)

    before = start(groups[0])
    assert before.stop() == 0
    backlog = list(readings_of_fleet(BACKLOG, prefix="BACKLOG-"))
    publish_all(old_device, backlog)
    old_device.wait_acknowledged()
    with Load(old_device, 1000) as load:
        load.wait_published(500)
        after = start(groups[1])
        load.wait_published(1500)
        published = load.finish(database_url, timeout=60)
    assert_stored_once(database_url, backlog + published, timeout=60)
    assert_books_balance(after)
    wait_until(
        lambda: sql("SELECT filter FROM mqtt_subscriptions") == [(filter_of(groups[1]),)],
        what="the old one is forgotten",
    )


def filter_of(group: str | None) -> str:
    return "v1/telemetry/#" if group is None else f"$share/{group}/v1/telemetry/#"
