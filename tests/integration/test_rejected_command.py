"""`wattline rejected`: what a person sees of the quarantine, and what happens to a message that is published again."""

from __future__ import annotations

import asyncio
import json
import queue
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta

import paho.mqtt.client as paho
import psycopg
import pytest
from paho.mqtt.enums import CallbackAPIVersion

from config.settings import Settings
from ingestor.rejected.listing import printable
from ingestor.rejected.quarantine import CHUNK_ROWS, ONCE_CUT_TO, Choice
from ingestor.rejected.replay import replay
from ingestor.schema.migrate import migrate
from mqtt.link import Link, LinkOptions
from postgres.connecting import connect
from tests.backends import Broker
from tests.devices import meter_reading
from tests.processes import WattlineProcess
from tests.proxy import TcpProxy
from tests.waiting import wait_until, wait_until_async

START = datetime(2026, 1, 31, 14, tzinfo=UTC)
TOPIC = "v1/telemetry/meter/METER-001"
READING = json.dumps(meter_reading()).encode()


class Quarantine:
    """A migrated database, the rows of its quarantine, and the commands on them."""

    def __init__(self, database_url: str, mqtt_url: str, start_wattline: Callable[..., WattlineProcess]) -> None:
        self.database_url = database_url
        self._environment = {"DATABASE_URL": database_url, "MQTT_URL": mqtt_url}
        self._start = start_wattline

    def add(self, payload: bytes = READING, *, topic: str = TOPIC, code: str = "invalid_value", why: str = "") -> int:
        """Each a second later than the one before."""
        with psycopg.connect(self.database_url) as connection:
            cursor = connection.execute(
                "INSERT INTO rejected_messages (received_at, topic, payload, reason_code, reason) "
                "SELECT %s + count(*) * interval '1 s', %s, %s, %s, %s FROM rejected_messages RETURNING id",
                [START, topic, payload, code, why],
            )
            ((number,),) = cursor.fetchall()
        return int(number)

    def waiting(self) -> list[int]:
        """The ids of those not replayed yet."""
        with psycopg.connect(self.database_url) as connection:
            rows = connection.execute("SELECT id FROM rejected_messages WHERE replayed_at IS NULL ORDER BY id")
            return [number for (number,) in rows]

    def command(self, *arguments: str, **environment: str) -> tuple[int, str]:
        """Exit status and everything printed and logged."""
        process = self._start("rejected", *arguments, **(self._environment | environment))
        return process.wait(), process.output()


@pytest.fixture
def quarantine(database_url: str, broker: Broker, start_wattline: Callable[..., WattlineProcess]) -> Quarantine:
    async def prepare() -> None:
        async with await connect(database_url) as connection:
            await migrate(connection)

    asyncio.run(prepare())
    return Quarantine(database_url, broker.url, start_wattline)


@contextmanager
def subscriber(port: int) -> Iterator[queue.SimpleQueue[tuple[str, bytes, int]]]:
    """What an independent client receives: (topic, payload, QoS), in order."""
    received: queue.SimpleQueue[tuple[str, bytes, int]] = queue.SimpleQueue()
    subscribed: queue.SimpleQueue[bool] = queue.SimpleQueue()
    client = paho.Client(CallbackAPIVersion.VERSION2, protocol=paho.MQTTv5)
    client.on_message = lambda _client, _data, message: received.put((message.topic, message.payload, message.qos))
    client.on_subscribe = lambda *_: subscribed.put(True)
    client.connect("127.0.0.1", port)
    client.subscribe("v1/telemetry/#", qos=1)
    client.loop_start()
    try:
        assert subscribed.get(timeout=10)
        yield received
    finally:
        client.disconnect()
        client.loop_stop()


def all_of(received: queue.SimpleQueue[tuple[str, bytes, int]]) -> list[tuple[str, bytes, int]]:
    return [received.get_nowait() for _ in range(received.qsize())]


# Looking


def test_the_newest_come_first_with_reason_and_payload(quarantine: Quarantine) -> None:
    old = quarantine.add(b'{"meterId":1}', why="meterId: should be a string")
    new = quarantine.add(b"", topic="v1/telemetry/other", code="unknown_topic", why="nobody knows this topic")
    status, said = quarantine.command("list")
    assert status == 0
    assert said.splitlines() == [
        f"{new}  2026-01-31T14:00:01.000Z  unknown_topic  v1/telemetry/other",
        "    nobody knows this topic",
        "    (empty)",
        f"{old}  2026-01-31T14:00:00.000Z  invalid_value  {TOPIC}",
        "    meterId: should be a string",
        '    {"meterId":1}',
    ]
    assert quarantine.command("list", "--limit", "1")[1].splitlines() == said.splitlines()[:3]
    assert quarantine.command("list", "--code", "invalid_value")[1].splitlines() == said.splitlines()[3:]


def test_what_strangers_sent_cannot_write_to_the_terminal(quarantine: Quarantine) -> None:
    quarantine.add(b"\x1b[2J\xff\x9b\n\xe2\x82\xac", topic="v1/telemetry/\x1b]0;owned\x07", why="caf\u00e9 \u202e")
    status, said = quarantine.command("list")
    assert status == 0
    assert all(character == "\n" or " " <= character <= "~" for character in said)
    assert "\\x1b[2J\\xff\\x9b\\n\\u20ac" in said
    assert len(said.splitlines()) == 3
    assert printable('plain {"text"}') == 'plain {"text"}'


def test_json_is_one_object_a_line_with_the_whole_payload(quarantine: Quarantine) -> None:
    long = quarantine.add(b"x" * 1000, why="no JSON", code="invalid_json")
    binary = quarantine.add(b"\xff", code="invalid_json")
    status, said = quarantine.command("list", "--json")
    assert status == 0
    first, second = map(json.loads, said.splitlines())
    assert second == {
        "id": long,
        "receivedAt": "2026-01-31T14:00:00.000Z",
        "topic": TOPIC,
        "code": "invalid_json",
        "reason": "no JSON",
        "replayedAt": None,
        "payloadBytes": 1000,
        "cut": False,
        "payload": "x" * 1000,
    }
    assert (first["id"], first["payloadBase64"]) == (binary, "/w==")
    assert "payload" not in first
    assert "and 840 bytes more" in quarantine.command("list")[1]


def test_a_reader_that_leaves_early_is_no_error(quarantine: Quarantine) -> None:
    for _ in range(5):
        quarantine.add(b"x" * (ONCE_CUT_TO - 1))
    process = subprocess.Popen(
        [sys.executable, "-m", "wattline", "rejected", "list", "--json"],
        env={"DATABASE_URL": quarantine.database_url},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )
    with process:
        assert process.stdout is not None
        assert process.stderr is not None
        process.stdout.read(10)
        process.stdout.close()
        assert process.stderr.read() == b""
    assert process.returncode == 0


def test_an_empty_quarantine_is_said(quarantine: Quarantine) -> None:
    status, said = quarantine.command("list", "--code", "too_old")
    assert status == 0
    assert "nothing in quarantine with code too_old" in said


@pytest.mark.parametrize(
    "arguments",
    [
        ["list", "--limit", "0"],
        ["list", "--limit", "1001"],
        ["list", "--code", "nonsense"],
        ["replay"],
        ["replay", "--all", "--id", "1"],
        ["replay", "--id", "9" * 5000],
        [],
    ],
)
def test_bad_usage_is_2_without_a_traceback(
    start_wattline: Callable[..., WattlineProcess], arguments: list[str]
) -> None:
    process = start_wattline("rejected", *arguments)
    assert process.wait() == 2
    assert "error: " in process.output()
    assert "Traceback" not in process.output()


def test_a_database_without_tables_is_one_line(
    database_url: str, start_wattline: Callable[..., WattlineProcess]
) -> None:
    process = start_wattline("rejected", "list", DATABASE_URL=database_url)
    assert process.wait() == 1
    (line,) = process.output().splitlines()
    assert line.endswith("has no quarantine yet; run wattline migrate")


# Replaying


def test_replayed_messages_reach_their_topics_unchanged_and_only_once(quarantine: Quarantine, broker: Broker) -> None:
    topics = [f"v1/telemetry/meter/METER-{number}" for number in range(CHUNK_ROWS + 50)]
    for topic in topics:
        quarantine.add(topic.encode(), topic=topic)
    other = quarantine.add(b"another reason", code="clock_skew")
    with subscriber(broker.port) as received:
        status, said = quarantine.command("replay", "--code", "invalid_value")
        assert (status, said.splitlines()[-1]) == (0, f"replayed {len(topics)}, skipped 0, failed 0")
        wait_until(lambda: received.qsize() >= len(topics), what="every message")
        assert quarantine.waiting() == [other]
        assert sorted(all_of(received)) == sorted((topic, topic.encode(), 1) for topic in topics)
        status, said = quarantine.command("replay", "--all")
        assert (status, said.splitlines()[-1]) == (0, "replayed 1, skipped 0, failed 0")
        wait_until(received.qsize, what="the other")
        assert all_of(received) == [(TOPIC, b"another reason", 1)]
    assert quarantine.waiting() == []
    assert "replayed 20" in quarantine.command("list", "--limit", "1")[1]


def test_a_message_named_by_id_is_replayed_even_again(quarantine: Quarantine, broker: Broker) -> None:
    first, second = quarantine.add(b"first"), quarantine.add(b"second")
    with subscriber(broker.port) as received:
        for _ in range(2):
            status, said = quarantine.command("replay", "--id", str(second))
            assert (status, said.splitlines()[-1]) == (0, "replayed 1, skipped 0, failed 0")
            wait_until(received.qsize, what="the message")
            assert all_of(received) == [(TOPIC, b"second", 1)]
    assert quarantine.waiting() == [first]


def test_a_dry_run_only_counts(quarantine: Quarantine, broker: Broker) -> None:
    numbers = [quarantine.add(), quarantine.add(b"x" * ONCE_CUT_TO)]
    with subscriber(broker.port) as received:
        status, said = quarantine.command("replay", "--all", "--dry-run")
        assert received.qsize() == 0
    assert status == 0
    assert said.splitlines()[-1] == "would replay 1, skipped 1, failed 0"
    assert quarantine.waiting() == numbers


def test_a_cut_payload_is_skipped_and_said_so(quarantine: Quarantine, broker: Broker) -> None:
    cut = quarantine.add(b"x" * ONCE_CUT_TO)
    whole = b"x" * (ONCE_CUT_TO - 1)
    quarantine.add(whole)
    with subscriber(broker.port) as received:
        status, said = quarantine.command("replay", "--all")
        wait_until(received.qsize, what="the whole one")
        assert all_of(received) == [(TOPIC, whole, 1)]
    assert status == 0
    assert f"skipped, only a part of them was kept: {cut}" in said
    assert said.splitlines()[-1] == "replayed 1, skipped 1, failed 0"
    assert quarantine.waiting() == [cut]


def test_what_nobody_would_store_is_not_called_replayed(quarantine: Quarantine) -> None:
    numbers = [quarantine.add(), quarantine.add()]
    status, said = quarantine.command("replay", "--all")
    assert status == 1
    assert "2 not published: the broker did not take the message: nobody is subscribed" in said
    assert said.splitlines()[-1] == "replayed 0, skipped 0, failed 2"
    assert quarantine.waiting() == numbers


def test_an_unknown_id_is_a_failure(quarantine: Quarantine) -> None:
    status, said = quarantine.command("replay", "--id", "77")
    assert status == 1
    assert "not in quarantine (any more): 77" in said


def test_a_missing_broker_is_a_clear_failure(quarantine: Quarantine, broker: Broker) -> None:
    number = quarantine.add()
    broker.stop()
    status, said = quarantine.command("replay", "--all")
    assert status == 1
    assert str(broker.port) in said
    assert "Traceback" not in said
    assert quarantine.waiting() == [number]


def test_a_link_lost_before_the_acknowledgement_ends_the_replay_and_the_next_goes_on(
    quarantine: Quarantine, broker: Broker, proxy_factory: Callable[[int], TcpProxy]
) -> None:
    number = quarantine.add()
    proxy = proxy_factory(broker.port)
    settings = Settings(mqtt_url=f"mqtt://127.0.0.1:{proxy.port}", _env_file=None)

    async def scenario(received: queue.SimpleQueue[tuple[str, bytes, int]]) -> None:
        async with (
            await connect(quarantine.database_url, autocommit=True) as connection,
            Link(LinkOptions.from_settings(settings, client_id="replay-test")) as link,
        ):
            await link.wait_connected(30)
            proxy.blackhole(to_server=False)
            replaying = asyncio.create_task(replay(connection, link, Choice()))
            await wait_until_async(received.qsize, what="the message at the broker")
            proxy.cut()
            outcome = await replaying
            assert (outcome.replayed, outcome.failed) == ([], [number])
            assert outcome.lost is not None

    with subscriber(broker.port) as received:
        asyncio.run(scenario(received))
        assert quarantine.waiting() == [number]
        assert quarantine.command("replay", "--all")[0] == 0
    assert quarantine.waiting() == []


def test_a_reading_refused_for_its_clock_is_stored_once_its_time_has_come(
    quarantine: Quarantine, broker: Broker, start_wattline: Callable[..., WattlineProcess]
) -> None:
    """Through a real ingestor; its skew limit is what was wrong."""
    settings = {"DATABASE_URL": quarantine.database_url, "MQTT_URL": broker.url}
    # What is in this quarantine came long ago.
    ingest = start_wattline("ingest", **settings, REJECTED_RETENTION_DAYS="36500")
    ingest.wait_ready()
    reading = meter_reading(at=datetime.now(UTC) - timedelta(hours=1))
    quarantine.add(json.dumps(reading).encode(), code="clock_skew")
    assert quarantine.command("replay", "--code", "clock_skew")[0] == 0

    def stored() -> int:
        with psycopg.connect(quarantine.database_url) as connection:
            return len(connection.execute("SELECT FROM meter_readings_history WHERE meter_id = 'METER-001'").fetchall())

    wait_until(stored, what="the reading")
    assert quarantine.waiting() == []
