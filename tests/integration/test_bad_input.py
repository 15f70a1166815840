"""What devices should not send: each message is quarantined with its reason, and its neighbours are stored."""

from __future__ import annotations

import json
import socket
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import psycopg
import pytest
from psycopg import Cursor

from tests.backends import Broker
from tests.devices import device, iso, meter_reading
from tests.metrics import books, metric
from tests.processes import WattlineProcess
from tests.waiting import wait_until

METER = "v1/telemetry/meter/M-1"


def good(**changes: Any) -> dict[str, Any]:
    return meter_reading("M-1", **changes)


def text(old: str, new: str) -> str:
    """A good payload with a piece of its text replaced."""
    return json.dumps(good()).replace(old, new)


NOW = datetime.now(UTC)
BAD = {
    "not JSON": (METER, "kwh=5", "invalid_json"),
    "bytes that are no text": (METER, b"\xff\xfe\x00", "invalid_json"),
    "cut off": (METER, json.dumps(good())[:-5], "invalid_json"),
    "half of a pair of surrogates": (METER, text('"M-1"', '"\\ud800"'), "invalid_json"),
    "deep nesting": (METER, "[" * 100_000, "invalid_json"),
    "deep nesting in a field": (METER, text("238.4", "[" * 500 + "]" * 500), "invalid_json"),
    "null": (METER, "null", "invalid_shape"),
    "a number": (METER, "17", "invalid_shape"),
    "an unknown field": (METER, good(colour="red"), "invalid_shape"),
    "a missing field": (METER, {"meterId": "M-1"}, "invalid_shape"),
    "a vehicle's payload": (
        METER,
        {"vehicleId": "M-1", "soc": 1, "kwhDeliveredDc": 1, "batteryTemp": 1, "timestamp": iso(NOW)},
        "invalid_shape",
    ),
    "NaN": (METER, text("238.4", "NaN"), "invalid_value"),
    "1e400": (METER, text("238.4", "1e400"), "invalid_value"),
    "an integer of 500 digits": (METER, text("238.4", "9" * 500), "invalid_value"),
    "a number as a string": (METER, good(voltage="238.4"), "invalid_value"),
    "a boolean": (METER, good(voltage=True), "invalid_value"),
    "a negative energy": (METER, good(kwhConsumedAc=-0.1), "invalid_value"),
    "NUL in the id": (METER, good(meterId="M-1\0"), "invalid_value"),
    "odd characters in the id": (METER, good(meterId="M'); DROP TABLE meter_status; --"), "invalid_value"),
    "an id of another script": (METER, good(meterId="\N{FULLWIDTH LATIN CAPITAL LETTER M}-1"), "invalid_value"),
    "an id of another device": (METER, meter_reading("M-2"), "id_mismatch"),
    "a naive timestamp": (METER, good(timestamp="2026-01-31T14:00:00"), "invalid_value"),
    "a timestamp in seconds": (METER, good(timestamp="1769868000"), "invalid_value"),
    "a day that does not exist": (METER, good(timestamp="2026-02-30T14:00:00Z"), "invalid_value"),
    "digits of another script": (METER, good(timestamp="٢٠٢٦-01-31T14:00:00Z"), "invalid_value"),
    "the first day of the calendar": (METER, good(timestamp="0001-01-01T00:00:00+23:59"), "too_old"),
    "a far future": (METER, good(at=NOW + timedelta(days=2)), "clock_skew"),
    "a far past": (METER, good(at=NOW - timedelta(days=40)), "too_old"),
    "no payload": (METER, b"", "empty"),
    "an empty array": (METER, "[]", "empty"),
    "1 MB of blanks around a reading": (METER, json.dumps(good()) + " " * 1_000_000, "too_large"),
    "2 MB": (METER, b"x" * 2_000_000, "too_large"),
    "a deeper topic": ("v1/telemetry/meter/M-1/x", good(), "unknown_topic"),
    "a topic without id": ("v1/telemetry/meter/", good(), "unknown_topic"),
    "another kind": ("v1/telemetry/boiler/M-1", good(), "unknown_topic"),
}


@pytest.fixture
def connection(database_url: str) -> Iterator[Any]:
    with psycopg.connect(database_url, autocommit=True) as connection:
        yield connection


def test_each_bad_message_is_quarantined_with_its_reason_and_its_neighbours_are_stored(
    start_wattline: Callable[..., WattlineProcess],
    database_url: str,
    broker: Broker,
    connection: psycopg.Connection[Any],
) -> None:
    # One batch, so that all of them are neighbours; nothing is late because the clock is not the point here.
    ingestor = start_wattline("ingest", DATABASE_URL=database_url, MQTT_URL=broker.url, FLUSH_INTERVAL_MS="2000")
    ingestor.wait_ready()
    with device(broker.port) as publisher:
        for index, (topic, payload, _) in enumerate(BAD.values()):
            publisher.meter(meter_reading(f"GOOD-{index}"))
            publisher.publish(topic, payload)
        publisher.meter(meter_reading("GOOD-last"))
        publisher.wait_acknowledged()

        def kept() -> Cursor:
            return connection.execute("SELECT topic, payload, reason_code, reason FROM rejected_messages ORDER BY id")

        wait_until(lambda: kept().rowcount == len(BAD), what="every bad message is in quarantine")
        rows = kept().fetchall()

    expected = [(topic, code) for topic, _, code in BAD.values()]
    assert [(topic, code) for topic, _, code, _ in rows] == expected
    for (name, (_, payload, _)), (_, stored, _, reason) in zip(BAD.items(), rows, strict=True):
        sent = (
            payload
            if isinstance(payload, bytes)
            else (payload if isinstance(payload, str) else json.dumps(payload)).encode()
        )
        assert stored == (sent if len(sent) <= 1_000_000 else sent[:65536]), name
        assert reason, name
        assert "\n" not in reason, name
    stored = connection.execute("SELECT count(*) FROM meter_status WHERE meter_id LIKE 'GOOD-%'").fetchone()
    assert stored == (len(BAD) + 1,)
    assert "Traceback" not in ingestor.output()
    assert metric(ingestor, "wattline_mqtt_reconnects_total") == 0
    wait_until(lambda: metric(ingestor, "wattline_inflight_messages") == 0, what="everything is acknowledged")
    received, settled = books(ingestor)
    assert received == settled == 2 * len(BAD) + 1


def test_only_the_bad_items_of_an_array_are_refused(
    start_wattline: Callable[..., WattlineProcess],
    database_url: str,
    broker: Broker,
    connection: psycopg.Connection[Any],
) -> None:
    start_wattline("ingest", DATABASE_URL=database_url, MQTT_URL=broker.url).wait_ready()
    moments = [NOW - timedelta(seconds=seconds) for seconds in range(5)]
    items = [meter_reading("M-1", at) for at in moments]
    items[1]["voltage"] = "high"
    items[3]["meterId"] = "M-2"
    with device(broker.port) as publisher:
        publisher.publish(METER, items)
        publisher.wait_acknowledged()
        query = "SELECT reason_code, payload FROM rejected_messages ORDER BY id"
        wait_until(lambda: connection.execute(query).rowcount == 2, 10, "two items are in quarantine")
    rows = [(code, json.loads(payload)) for code, payload in connection.execute(query)]
    assert rows == [("invalid_value", items[1]), ("id_mismatch", items[3])]
    times = {row[0] for row in connection.execute("SELECT ts FROM meter_readings_history")}
    assert times == {moments[0], moments[2], moments[4]}


def test_a_retained_message_is_stored_once_over_restarts(
    start_wattline: Callable[..., WattlineProcess],
    database_url: str,
    broker: Broker,
    connection: psycopg.Connection[Any],
) -> None:
    with device(broker.port) as publisher:
        publisher.meter(meter_reading("RETAINED"), retain=True)
        publisher.wait_acknowledged()
    ingestor = start_wattline("ingest", DATABASE_URL=database_url, MQTT_URL=broker.url)
    for _ in range(2):
        ingestor.wait_ready()
        wait_until(
            lambda: connection.execute("SELECT FROM meter_readings_history").rowcount == 1, 10, "the reading is stored"
        )
        assert ingestor.stop() == 0
        ingestor.start()


def test_a_flood_of_refusals_is_counted_in_full_and_kept_in_part(
    start_wattline: Callable[..., WattlineProcess],
    database_url: str,
    broker: Broker,
    connection: psycopg.Connection[Any],
) -> None:
    ingestor = start_wattline("ingest", DATABASE_URL=database_url, MQTT_URL=broker.url, REJECTED_MAX_PER_SECOND="5")
    ingestor.wait_ready()
    with device(broker.port) as publisher:
        for _ in range(1000):
            publisher.publish(METER, "nonsense")
        publisher.wait_acknowledged()
    wait_until(
        lambda: metric(ingestor, "wattline_readings_rejected_total", reason="invalid_json") == 1000,
        10,
        "all are counted",
    )
    kept = connection.execute("SELECT FROM rejected_messages").rowcount
    assert metric(ingestor, "wattline_rejected_not_kept_total") == 1000 - kept
    assert 5 <= kept <= 100


def test_a_topic_that_is_not_text_never_reaches_the_ingestor(
    start_wattline: Callable[..., WattlineProcess], database_url: str, broker: Broker
) -> None:
    """The codec cannot take such a packet apart, so it must be the broker that refuses it; Mosquitto does."""
    ingestor = start_wattline("ingest", DATABASE_URL=database_url, MQTT_URL=broker.url)
    ingestor.wait_ready()
    connect = b"\x10\x0f\x00\x04MQTT\x05\x02\x00\x3c\x00\x00\x02xy"
    topic = b"v1/telemetry/meter/\xff"
    publish = b"\x32" + bytes([2 + len(topic) + 3]) + b"\x00" + bytes([len(topic)]) + topic + b"\x00\x01\x00"
    with socket.create_connection(("127.0.0.1", broker.port)) as raw:
        raw.sendall(connect)
        assert raw.recv(100)[0] == 0x20
        raw.sendall(publish)
        raw.settimeout(5)
        answer = raw.recv(100)
        assert not answer or answer[0] == 0xE0, "the broker disconnects the sender"
    with device(broker.port) as publisher:
        publisher.meter(meter_reading("AFTER"))
        publisher.wait_acknowledged()
    wait_until(lambda: books(ingestor) == (1, 1), 10, "the next reading is stored")
    assert metric(ingestor, "wattline_mqtt_reconnects_total") == 0


def test_valid_readings_that_are_refused_are_kept_all_and_the_others_wait(
    start_wattline: Callable[..., WattlineProcess],
    database_url: str,
    broker: Broker,
    connection: psycopg.Connection[Any],
) -> None:
    """Faster than REJECTED_MAX_PER_SECOND: reading pauses for them, and nothing is left out."""
    ingestor = start_wattline("ingest", DATABASE_URL=database_url, MQTT_URL=broker.url, REJECTED_MAX_PER_SECOND="100")
    ingestor.wait_ready()
    late = [meter_reading("M-1", NOW - timedelta(days=40, seconds=second)) for second in range(300)]
    with device(broker.port) as publisher:
        publisher.publish(METER, late)
        publisher.publish(METER, late)
        for _ in range(300):
            publisher.publish(METER, "nonsense")
        publisher.meter(meter_reading("AFTER"))
        publisher.wait_acknowledged()
    stored = "SELECT FROM meter_readings_history WHERE meter_id = 'AFTER'"
    wait_until(lambda: connection.execute(stored).rowcount == 1, what="the reading behind them")
    query = "SELECT count(*) FROM rejected_messages WHERE reason_code = 'too_old'"
    assert connection.execute(query).fetchone() == (600,)
    assert metric(ingestor, "wattline_rejected_not_kept_total") == 300 - (
        connection.execute("SELECT FROM rejected_messages WHERE reason_code = 'invalid_json'").rowcount
    )
    assert metric(ingestor, "wattline_rejected_not_kept_total") > 0
    assert "refused messages were counted and not kept: they came faster than" in ingestor.output()
    received, settled = books(ingestor)
    assert received == settled == 901


def test_what_even_the_quarantine_refuses_is_in_a_file_and_can_be_replayed(
    start_wattline: Callable[..., WattlineProcess],
    database_url: str,
    broker: Broker,
    connection: psycopg.Connection[Any],
    tmp_path: Path,
) -> None:
    spool = tmp_path / "spool"
    settings = {"DATABASE_URL": database_url, "MQTT_URL": broker.url}
    ingestor = start_wattline("ingest", **settings, REJECTED_SPOOL_DIR=str(spool), MAX_READING_AGE_DAYS="1")
    ingestor.wait_ready()
    connection.execute("ALTER TABLE rejected_messages RENAME TO away")
    late = meter_reading("M-1", NOW - timedelta(days=2))
    with device(broker.port) as publisher:
        publisher.meter(late)
        publisher.publish(METER, "nonsense")
        publisher.wait_acknowledged()
    wait_until(lambda: books(ingestor) == (2, 2), what="both are accounted for")
    wait_until(lambda: metric(ingestor, "wattline_readings_pending") == 0, what="nothing is pending")
    assert metric(ingestor, "wattline_rejected_spooled_total") == 1
    assert metric(ingestor, "wattline_rejected_not_kept_total") == 1
    connection.execute("ALTER TABLE away RENAME TO rejected_messages")
    assert ingestor.stop() == 0

    (file,) = spool.iterdir()
    replay = start_wattline("rejected", "replay", "--file", str(file), **settings)
    assert replay.wait() == 0, replay.output()
    assert "stored 1, repeated 0" in replay.output()
    query = "SELECT FROM meter_readings_history WHERE meter_id = 'M-1'"
    assert connection.execute(query).rowcount == 1
    assert [path.name for path in spool.iterdir()] == [f"{file.name}.replayed"]
