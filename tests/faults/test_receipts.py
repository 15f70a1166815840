"""What a device is told of its readings, by the real broker and the real database: after COMMIT, and never before."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from itertools import count
from pathlib import Path
from typing import Any

import paho.mqtt.client as paho
import psycopg
import pytest

from tests.asking import Asking, asking
from tests.backends import Broker, Database, new_broker
from tests.databases import a_database, migrated_template
from tests.devices import device, meter_reading
from tests.faults.counting import rows_in_history
from tests.faults.flushes import held_in_commit, make_gate
from tests.guarded_broker import GuardedBroker
from tests.metrics import metric
from tests.processes import WattlineProcess
from tests.proxy import TcpProxy
from tests.waiting import wait_until

ProxyFactory = Callable[[int], TcpProxy]

OK = {"stored": 1, "repeated": 0, "conflict": 0, "refused": []}
NOT_TAKEN = """
    CREATE FUNCTION not_taken() RETURNS trigger LANGUAGE plpgsql AS $$
        BEGIN RAISE EXCEPTION 'nobody wants 66 volts'; END $$;
    CREATE TRIGGER not_taken BEFORE INSERT ON meter_readings_history
        FOR EACH ROW WHEN (NEW.voltage = 66) EXECUTE FUNCTION not_taken();
"""


class Place:
    """An ingestor with its broker and its database, for all tests of this module."""

    def __init__(self, url: str, broker: Broker, ingestor: WattlineProcess) -> None:
        self.url, self.broker, self.ingestor = url, broker, ingestor

    def receipts(self, outcome: str) -> float:
        return metric(self.ingestor, "wattline_receipts_total", outcome=outcome)


@pytest.fixture(scope="module")
def place(postgres_server: Database, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Place]:
    folder = tmp_path_factory.mktemp("receipts")
    broker = new_broker(folder / "broker")
    with a_database(postgres_server, migrated_template(postgres_server)) as url:
        broker.start()
        ingestor = WattlineProcess("ingest", folder=folder, DATABASE_URL=url, MQTT_URL=broker.url)
        try:
            ingestor.start()
            ingestor.wait_ready()
            make_gate(url)
            with psycopg.connect(url) as owner:
                owner.execute(NOT_TAKEN)
            yield Place(url, broker, ingestor)
        finally:
            ingestor.kill()
            broker.stop()


_numbers = count(1)


@pytest.fixture
def meter(place: Place) -> Iterator[Asking]:
    """One that nobody has seen before."""
    with asking(place.broker.port, f"M-{next(_numbers)}") as one:
        yield one


def reading(meter: Asking, seconds: float = 0, **changes: Any) -> dict[str, Any]:
    """Of this meter, so many seconds ago."""
    at = datetime.now(UTC) - timedelta(seconds=seconds)
    return meter_reading(meter.topic.rpartition("/")[2], at, **changes)


def test_stored_repeated_in_conflict_or_refused_and_why(meter: Asking) -> None:
    first = reading(meter)
    assert meter.told(first) == OK
    assert meter.told(first) == OK | {"stored": 0, "repeated": 1}
    assert meter.told(first | {"voltage": 1.0}) == OK | {"stored": 0, "conflict": 1}
    told = meter.told([reading(meter, 1), first, reading(meter, 2, voltage=66), reading(meter, 3, voltage=-1), "?"])
    assert (told["stored"], told["repeated"], told["conflict"]) == (1, 1, 0)
    assert [(each["index"], each["code"]) for each in told["refused"]] == [
        (2, "database_refused"),
        (3, "invalid_value"),
        (4, "invalid_shape"),
    ]
    assert "nobody wants 66 volts" in told["refused"][0]["reason"]
    assert meter.told(b"{")["refused"][0]["code"] == "invalid_json"
    assert meter.told(reading(meter, 4), qos=0) == OK


def test_a_receipt_comes_after_commit_and_never_before(place: Place, meter: Asking) -> None:
    before = rows_in_history(place.url)
    with held_in_commit(place.url) as wait_for_flush, device(place.broker.port) as other:
        asked = [meter.ask(reading(meter, seconds)) for seconds in range(20)]
        wait_for_flush()
        other.publish(meter.receipt_topic, {}, correlation=b"later")
        assert meter.receipt(b"later") == {}, "whatever was sent before it has come"
        assert len(meter.receipts) == 1
        assert rows_in_history(place.url) == before
    assert [meter.receipt(correlation) for correlation in asked] == [OK] * 20
    assert rows_in_history(place.url) == before + 20
    assert all(len(receipts) == 1 for receipts in meter.receipts.values()), "one publish a message"


def test_topics_of_others_are_ignored_and_counted_and_the_reading_is_stored(place: Place, meter: Asking) -> None:
    ignored, stored = place.receipts("ignored"), rows_in_history(place.url)
    for topic in ("v1/receipts/OTHER/test", "v1/telemetry/meter/OTHER", meter.receipt_topic + "/ü", "$SYS/x"):
        meter.ask(reading(meter), receipt_topic=topic)
    wait_until(lambda: place.receipts("ignored") == ignored + 4, what="four are ignored")
    wait_until(lambda: rows_in_history(place.url) == stored + 4, what="all are stored")
    assert meter.receipts == {}


def test_devices_of_mqtt_311_and_those_who_listen_no_more_cost_nothing(place: Place, meter: Asking) -> None:
    nobody, stored = place.receipts("unsubscribed"), rows_in_history(place.url)
    with device(place.broker.port, protocol=paho.MQTTv311) as old:
        old.meter(reading(meter, 5))
        old.wait_acknowledged()
    meter.ask(reading(meter), receipt_topic=f"{meter.receipt_topic}/elsewhere")
    wait_until(lambda: place.receipts("unsubscribed") == nobody + 1, what="nobody listens there")
    wait_until(lambda: rows_in_history(place.url) == stored + 2, what="both are stored")


LIMITED = """
allow_anonymous true
acl_file acl
max_inflight_messages 3
max_packet_size 2000
"""
ACL = """
topic readwrite v1/telemetry/#
topic readwrite v1/receipts/METER-001/#
topic read v1/receipts/DENIED/#
"""


def test_a_broker_that_takes_few_and_small_receipts_and_not_all_of_them(
    tmp_path: Path, start_ingestor: Callable[..., WattlineProcess]
) -> None:
    broker = GuardedBroker(tmp_path / "limited", LIMITED, {"acl": ACL})
    broker.start()
    try:
        ingestor = start_ingestor(MQTT_URL=broker.url)
        with asking(broker.port) as meter, asking(broker.port, "DENIED") as denied:
            correlation = denied.ask(reading(denied))
            wait_until(lambda: metric(ingestor, "wattline_receipts_total", outcome="refused") == 1, what="a refusal")
            assert correlation not in denied.receipts
            assert "needs the right to publish to v1/receipts/#" in ingestor.output()
            told = meter.told([1] * 200)
            assert (told["refused"], told["omitted"]) == ([], 200)
            ingestor.stop()

            # The last batch is written by the stop. Its receipts are twenty times what the broker takes at a time.
            last = start_ingestor(MQTT_URL=broker.url, FLUSH_INTERVAL_MS="60000")
            asked = [meter.ask(reading(meter, seconds), qos=0) for seconds in range(60)]
            wait_until(lambda: metric(last, "wattline_readings_pending") == 60, what="all are pending")
            assert last.stop() == 0
            assert [meter.receipt(correlation) for correlation in asked] == [OK] * 60
    finally:
        broker.stop()


def test_a_reading_whose_receipt_was_lost_with_its_ingestor_is_told_as_repeated(
    start_ingestor: Callable[..., WattlineProcess], broker: Broker, database_url: str, proxy_factory: ProxyFactory
) -> None:
    proxy = proxy_factory(broker.port)
    ingestor = start_ingestor(MQTT_URL=f"mqtt://127.0.0.1:{proxy.port}")
    with asking(broker.port) as meter:
        proxy.blackhole(to_client=False)
        asked = [meter.ask(reading(meter, seconds)) for seconds in range(50)]
        wait_until(lambda: rows_in_history(database_url) == 50, what="everything is committed")
        ingestor.kill()
        proxy.cut()
        proxy.restore()
        assert meter.receipts == {}
        ingestor.start()
        assert [meter.receipt(correlation) for correlation in asked] == [OK | {"stored": 0, "repeated": 1}] * 50
    assert rows_in_history(database_url) == 50
