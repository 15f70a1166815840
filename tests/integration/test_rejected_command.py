"""`wattline rejected`: what a person sees of the quarantine, and what becomes of a message that is replayed."""

from __future__ import annotations

import asyncio
import json
import subprocess
import sys
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path

import psycopg
import pytest

from ingestor.batch import Refusal
from ingestor.rejected.listing import printable
from ingestor.rejected.quarantine import CHUNK_ROWS, ONCE_CUT_TO
from ingestor.rejected.spool import as_line
from ingestor.schema.migrate import migrate
from postgres.connecting import connect
from tests.backends import Broker
from tests.devices import device, meter_reading
from tests.metrics import books, metric
from tests.processes import WattlineProcess
from tests.waiting import wait_until

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
        "refusedAgainAt": None,
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
        ["replay", "--all", "--file", "x"],
        ["replay", "--file", "x", "--code", "too_old"],
        ["replay", "--since", "yesterday"],
        [],
    ],
)
def test_bad_usage_is_2_without_a_traceback(
    start_wattline: Callable[..., WattlineProcess], arguments: list[str]
) -> None:
    process = start_wattline("rejected", *arguments)
    assert process.wait() == 2
    line = process.output().splitlines()[-1]  # argparse's own come after a usage
    assert line.startswith("wattline")
    assert "--" in line or "ACTION" in line
    assert "Traceback" not in process.output()


@pytest.mark.empty_database
def test_a_database_without_tables_is_one_line(
    database_url: str, start_wattline: Callable[..., WattlineProcess]
) -> None:
    process = start_wattline("rejected", "list", DATABASE_URL=database_url)
    assert process.wait() == 1
    (line,) = process.output().splitlines()
    assert line.startswith("wattline: PostgreSQL at ")
    assert line.endswith("does not exist; run wattline migrate")


# Replaying


def meter(device: str = "METER-001", *, minutes: int = 5, **changes: object) -> bytes:
    """A reading that is taken now."""
    return json.dumps(meter_reading(device, datetime.now(UTC) - timedelta(minutes=minutes), **changes)).encode()


def last_line(said: str) -> dict[str, int]:
    """`stored 3, repeated 1, ...` as a dict, without what is 0."""
    parts = (part.rpartition(" ") for part in said.splitlines()[-1].split(", "))
    return {what: int(count.replace(",", "")) for what, _, count in parts if count != "0"}


def test_each_message_is_told_what_became_of_it_and_refused_ones_keep_their_one_row(quarantine: Quarantine) -> None:
    valid = meter()
    good, same, nonsense = quarantine.add(valid), quarantine.add(valid), quarantine.add(b"{", why="long ago")
    other = quarantine.add(json.dumps(json.loads(valid) | {"voltage": 1.5}).encode())
    late = quarantine.add(meter(minutes=-120), code="clock_skew")
    status, said = quarantine.command("replay", "--all")
    assert status == 1
    told = dict(line.split("  ", 1) for line in said.splitlines()[:-1])
    assert told[str(good)] == "stored"
    assert told[str(same)] == "repeated"
    assert told[str(nonsense)].startswith("refused again: invalid_json: ")
    assert told[str(other)].endswith("voltage 238.4 is stored, 1.5 came")
    assert " ahead of our clock; 300 s are allowed" in told[str(late)]
    assert last_line(said) == {"stored": 1, "repeated": 1, "in conflict": 1, "refused again": 2}
    assert quarantine.waiting() == [nonsense, other, late]
    with psycopg.connect(quarantine.database_url) as connection:
        kept = connection.execute("SELECT reason_code, refused_again_at IS NULL FROM rejected_messages ORDER BY id")
        assert kept.fetchall() == [
            ("invalid_value", True),
            ("invalid_value", True),
            ("invalid_json", False),
            ("conflict", False),
            ("clock_skew", False),
        ]
        assert connection.execute("SELECT count(*) FROM meter_readings_history").fetchone() == (1,)
    assert "long ago" not in quarantine.command("list")[1]
    assert quarantine.command("list")[1].count("  refused again 2") == 3


def test_replayed_again_and_again_a_message_has_one_row_and_one_reading(quarantine: Quarantine) -> None:
    good, nonsense = quarantine.add(meter()), quarantine.add(b"nonsense")
    for fate in ("stored", "repeated", "repeated"):
        status, said = quarantine.command("replay", "--id", str(good), str(nonsense))
        assert (status, last_line(said)) == (1, {fate: 1, "refused again": 1})
    assert quarantine.waiting() == [nonsense]
    with psycopg.connect(quarantine.database_url) as connection:
        assert connection.execute("SELECT count(*) FROM rejected_messages").fetchone() == (2,)
        assert connection.execute("SELECT count(*) FROM meter_readings_history").fetchone() == (1,)


def test_a_reading_is_stored_as_by_a_flush(quarantine: Quarantine) -> None:
    """With its partition, its status, and the hours that have to be summed again; an array as a whole."""
    at = datetime.now(UTC) - timedelta(days=20)
    items = [meter_reading("METER-001", at + timedelta(hours=hour)) for hour in range(3)]
    quarantine.add(json.dumps(items).encode(), code="too_old")
    assert quarantine.command("replay", "--code", "too_old")[0] == 0
    with psycopg.connect(quarantine.database_url) as connection:
        assert connection.execute("SELECT count(*) FROM meter_readings_history").fetchone() == (3,)
        assert connection.execute("SELECT last_reading FROM meter_status").fetchone() == (at + timedelta(hours=2),)
        hours = connection.execute("SELECT count(DISTINCT hour) FROM hourly_invalidations WHERE kind = 'meter'")
        assert hours.fetchone() == (3,)


def test_a_conflict_is_one_again_until_what_is_stored_is_annulled(
    quarantine: Quarantine, start_wattline: Callable[..., WattlineProcess]
) -> None:
    first = json.loads(meter())
    wrong, right = (
        quarantine.add(json.dumps(first).encode()),
        quarantine.add(json.dumps(first | {"voltage": 1}).encode()),
    )
    assert last_line(quarantine.command("replay", "--id", str(wrong))[1]) == {"stored": 1}
    status, said = quarantine.command("replay", "--id", str(right))
    assert (status, last_line(said)) == (1, {"in conflict": 1})
    now = datetime.now(UTC)
    stretch = ["--from", (now - timedelta(hours=1)).isoformat(), "--to", (now + timedelta(hours=1)).isoformat()]
    annulling = start_wattline(
        *("readings", "annul", "--device", "METER-001", *stretch, "--reason", "wrong"),
        DATABASE_URL=quarantine.database_url,
    )
    assert annulling.wait() == 0, annulling.output()
    assert last_line(quarantine.command("replay", "--id", str(wrong))[1]) == {"repeated": 1}
    assert last_line(quarantine.command("replay", "--all")[1]) == {"stored": 1}
    with psycopg.connect(quarantine.database_url) as connection:
        assert connection.execute("SELECT voltage FROM meter_readings_history").fetchall() == [(1.0,)]


def test_the_settings_of_the_command_are_the_rules(quarantine: Quarantine) -> None:
    quarantine.add(meter(rssi=-70), code="invalid_shape")
    assert last_line(quarantine.command("replay", "--all")[1]) == {"refused again": 1}
    status, said = quarantine.command("replay", "--all", UNKNOWN_FIELDS="ignore", METER_MAX_KWH="0.001")
    assert (status, "METER_MAX_KWH" in said) == (1, True)
    status, said = quarantine.command("replay", "--all", UNKNOWN_FIELDS="ignore")
    assert (status, last_line(said)) == (0, {"stored": 1})


@pytest.mark.parametrize(
    ("filters", "expected"),
    [
        (["--code", "too_old"], [3]),
        (["--device", "A"], [0, 1]),
        (["--topic-prefix", "v1/telemetry/vehicle/"], [1, 3]),
        (["--since", "2026-01-31T14:00:01Z", "--until", "2026-01-31T14:00:03Z"], [1, 2]),
        (["--device", "A", "--topic-prefix", "v1/telemetry/meter/"], [0]),
        (["--code", "too_old", "--until", "2026-01-31"], []),
    ],
)
def test_filters_choose_what_is_listed_and_replayed(
    quarantine: Quarantine, filters: list[str], expected: list[int]
) -> None:
    topics = ["meter/A", "vehicle/A", "meter/AA", "vehicle/B"]
    codes = ["invalid_json", "invalid_json", "invalid_json", "too_old"]
    numbers = [
        quarantine.add(b"x", topic=f"v1/telemetry/{topic}", code=code)
        for topic, code in zip(topics, codes, strict=True)
    ]
    chosen = [numbers[place] for place in expected]
    listed = quarantine.command("list", "--json", *filters)[1]
    assert [json.loads(line)["id"] for line in listed.splitlines() if line.startswith("{")] == chosen[::-1]
    status, said = quarantine.command("replay", *filters)
    assert [int(line.split()[0]) for line in said.splitlines()[:-1]] == chosen
    assert status == (1 if chosen else 0)


def test_more_than_a_chunk_is_replayed_whole(quarantine: Quarantine) -> None:
    count = CHUNK_ROWS + 20
    for number in range(count):
        quarantine.add(meter(minutes=5 + number))
    assert last_line(quarantine.command("replay", "--all")[1]) == {"stored": count}
    assert quarantine.waiting() == []


def test_a_dry_run_only_counts(quarantine: Quarantine) -> None:
    numbers = [quarantine.add(meter()), quarantine.add(b"x" * ONCE_CUT_TO)]
    status, said = quarantine.command("replay", "--all", "--dry-run")
    assert (status, said.splitlines()[-1]) == (0, "would replay 1, skipped 1")
    assert quarantine.waiting() == numbers


def test_a_cut_payload_is_skipped_and_said_so(quarantine: Quarantine) -> None:
    cut, whole = quarantine.add(b"x" * ONCE_CUT_TO), quarantine.add(meter())
    status, said = quarantine.command("replay", "--all")
    assert status == 0
    assert f"{cut}  skipped: only a part of it was kept" in said
    assert f"{whole}  stored" in said
    assert quarantine.waiting() == [cut]


def test_an_unknown_id_is_a_failure(quarantine: Quarantine) -> None:
    status, said = quarantine.command("replay", "--id", "77")
    assert status == 1
    assert "not in quarantine (any more), or not reached: 77" in said


def test_a_database_that_is_away_is_one_line(quarantine: Quarantine) -> None:
    status, said = quarantine.command("replay", "--all", DATABASE_URL="postgresql://u:p@127.0.0.1:1/x")
    assert status == 1
    assert "127.0.0.1:1/x" in said
    assert "Traceback" not in said


def test_a_row_that_somebody_has_locked_is_left_waiting(quarantine: Quarantine) -> None:
    quarantine.add(meter(minutes=10))
    assert quarantine.command("replay", "--all")[0] == 0
    number = quarantine.add(meter(minutes=5))
    with psycopg.connect(quarantine.database_url) as holder:
        holder.execute("UPDATE meter_status SET last_updated = now()")
        status, said = quarantine.command("replay", "--all")
    assert status == 1
    assert f"{number}  not stored: somebody holds a lock" in said
    assert quarantine.waiting() == [number]
    assert last_line(quarantine.command("replay", "--all")[1]) == {"stored": 1}


def test_what_a_device_sends_again_while_it_is_replayed_is_stored_once(
    quarantine: Quarantine, broker: Broker, start_wattline: Callable[..., WattlineProcess]
) -> None:
    """Whoever is first: the primary key decides, and the other one calls it repeated."""
    settings = {"DATABASE_URL": quarantine.database_url, "MQTT_URL": broker.url}
    # What is in this quarantine came long ago.
    ingestor = start_wattline("ingest", **settings, REJECTED_RETENTION_DAYS="36500")
    ingestor.wait_ready()
    readings = [meter_reading(f"METER-{number}", datetime.now(UTC) - timedelta(hours=1)) for number in range(200)]
    for reading in readings:
        topic = f"v1/telemetry/meter/{reading['meterId']}"
        quarantine.add(json.dumps(reading).encode(), topic=topic, code="clock_skew")
    replay = start_wattline("rejected", "replay", "--all", **settings)
    with device(broker.port) as publisher:
        for reading in reversed(readings):
            publisher.meter(reading)
        publisher.wait_acknowledged()
    assert replay.wait() == 0, replay.output()
    wait_until(lambda: books(ingestor) == (200, 200), what="all that was sent is accounted for")
    wait_until(lambda: metric(ingestor, "wattline_readings_pending") == 0, what="nothing is pending")
    committed = metric(ingestor, "wattline_readings_committed_total")
    told = last_line(replay.output())
    assert (told.get("stored", 0) + committed, sum(told.values())) == (200, 200)
    assert metric(ingestor, "wattline_readings_duplicate_total") == 200 - committed
    with psycopg.connect(quarantine.database_url) as connection:
        assert connection.execute("SELECT count(*) FROM meter_readings_history").fetchone() == (200,)
    assert quarantine.waiting() == []


def test_the_lines_of_a_file_are_stored_or_kept(quarantine: Quarantine, tmp_path: Path) -> None:
    file = tmp_path / "rejected-20260131.jsonl"
    payloads = [meter(), b"nonsense"]
    file.write_bytes(b"".join(as_line(Refusal(TOPIC, payload, "too_old", "", 0.0)) for payload in payloads))
    status, said = quarantine.command("replay", "--file", str(file))
    assert (status, last_line(said)) == (1, {"stored": 1, "refused again": 1})
    assert "line 2  refused again: invalid_json: " in said
    assert len(quarantine.waiting()) == 1
    assert [path.name for path in tmp_path.glob("rejected-*")] == [f"{file.name}.replayed"]
