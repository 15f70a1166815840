"""Whatever keeps a refused message out of quarantine, the readings beside it are stored, and the books balance."""

from __future__ import annotations

import hashlib
import random
import string
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from urllib.parse import urlsplit

import psycopg
import pytest

from tests.devices import Device, meter_reading
from tests.faults.conftest import Sql
from tests.faults.counting import assert_books_balance
from tests.metrics import metric
from tests.processes import WattlineProcess, get_status
from tests.waiting import wait_until

pytestmark = pytest.mark.empty_database

StartIngestor = Callable[..., WattlineProcess]
NOT_KEPT = "wattline_rejected_not_kept_total"
SECONDS_MAX = 30.0


def trigger(body: str, when: str = "BEFORE INSERT ON rejected_messages FOR EACH ROW", kind: str = "TRIGGER") -> str:
    return (
        f"CREATE OR REPLACE FUNCTION owners() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN {body} END $$;"
        f"CREATE {kind} owners {when} EXECUTE FUNCTION owners()"
    )


def raising(state: str) -> str:
    return trigger(f"RAISE EXCEPTION 'the owner says no' USING ERRCODE = '{state}';")


NO_TRIGGER = "DROP TRIGGER owners ON rejected_messages"
OWNERS: dict[str, tuple[str, str]] = {
    **{f"a trigger with {state}": (raising(state), NO_TRIGGER) for state in ("P0001", "40001", "57014", "08006")},
    "a trigger at COMMIT": (
        trigger(
            "RAISE EXCEPTION 'not today' USING ERRCODE = '40P01';",
            "AFTER INSERT ON rejected_messages DEFERRABLE INITIALLY DEFERRED FOR EACH ROW",
            "CONSTRAINT TRIGGER",
        ),
        NO_TRIGGER,
    ),
    "a trigger for the statement": (
        trigger("RAISE EXCEPTION 'no' USING ERRCODE = '25006';", "BEFORE INSERT ON rejected_messages"),
        NO_TRIGGER,
    ),
    "a trigger that drops the row": (trigger("RETURN NULL;"), NO_TRIGGER),
    "a trigger that is broken": (trigger("PERFORM no_such_function(); RETURN NEW;"), NO_TRIGGER),
    "a trigger that ends the session": (
        trigger("PERFORM pg_terminate_backend(pg_backend_pid()); PERFORM pg_sleep(5); RETURN NEW;"),
        NO_TRIGGER,
    ),
    "a rule": (
        "CREATE RULE owners AS ON INSERT TO rejected_messages DO INSTEAD NOTHING",
        "DROP RULE owners ON rejected_messages",
    ),
    "a check": (
        "ALTER TABLE rejected_messages ADD CONSTRAINT owners CHECK (topic LIKE 'x%') NOT VALID",
        "ALTER TABLE rejected_messages DROP CONSTRAINT owners",
    ),
    "a right taken away": (
        "REVOKE INSERT ON rejected_messages FROM {owner}",
        "GRANT INSERT ON rejected_messages TO {owner}",
    ),
    "row security": (
        "ALTER TABLE rejected_messages ENABLE ROW LEVEL SECURITY, FORCE ROW LEVEL SECURITY",
        "ALTER TABLE rejected_messages DISABLE ROW LEVEL SECURITY",
    ),
    "another column": (
        "ALTER TABLE rejected_messages RENAME COLUMN reason TO why",
        "ALTER TABLE rejected_messages RENAME COLUMN why TO reason",
    ),
    "no table": ("ALTER TABLE rejected_messages RENAME TO away", "ALTER TABLE away RENAME TO rejected_messages"),
}


@dataclass(frozen=True)
class Bench:
    """An ingestor, a device, and what the next reading is called."""

    ingestor: WattlineProcess
    publisher: Device
    sql: Sql
    numbers: Iterator[int]
    url: str

    def store_beside(self, refused: Callable[[], None]) -> None:
        """A reading before and one after what `refused` publishes: both are stored, in time."""
        names = [f"GOOD-{next(self.numbers)}" for _ in range(2)]
        self.publisher.meter(meter_reading(names[0]))
        refused()
        self.publisher.meter(meter_reading(names[1]))
        query = "SELECT FROM meter_status WHERE meter_id = ANY(%s)"
        with psycopg.connect(self.url) as connection:
            wait_until(lambda: connection.execute(query, [names]).rowcount == 2, SECONDS_MAX, "both are stored")


@pytest.fixture
def bench(start_ingestor: StartIngestor, owner_url: str, database_url: str, publisher: Device, sql: Sql) -> Bench:
    ingestor = start_ingestor(DATABASE_URL=owner_url, FLUSH_INTERVAL_MS="200")
    return Bench(ingestor, publisher, sql, iter(range(1000)), database_url)


def nonsense(publisher: Device, count: int = 3) -> None:
    for number in range(count):
        publisher.publish(f"v1/telemetry/meter/BAD-{number}", f"nonsense {number}")


def test_whatever_its_owner_does_to_it(bench: Bench, owner_url: str, sql: Sql) -> None:
    owner = str(urlsplit(owner_url).username)
    not_kept, slow = 0.0, {}
    for name, (spoil, mend) in OWNERS.items():
        sql(spoil.format(owner=owner))
        began = time.monotonic()
        bench.store_beside(lambda: nonsense(bench.publisher))
        slow[name] = time.monotonic() - began
        assert_books_balance(bench.ingestor)
        now = metric(bench.ingestor, NOT_KEPT)
        assert now == not_kept + 3, name
        not_kept = now
        sql(mend.format(owner=owner))
        bench.store_beside(lambda: nonsense(bench.publisher))
    # What ends the session is seen three times before it is left out; nothing else waits for more than a moment.
    assert {name for name, seconds in slow.items() if seconds > 10} == set(), slow
    assert metric(bench.ingestor, NOT_KEPT) == not_kept
    assert sql("SELECT count(*) FROM rejected_messages") == [(3 * len(OWNERS),)]
    assert get_status(f"{bench.ingestor.metrics_url}/readyz") == 200
    assert metric(bench.ingestor, "wattline_mqtt_reconnects_total") == 0
    lines = [line for line in bench.ingestor.output().splitlines() if "counted and not kept" in line]
    assert 1 <= len(lines) <= 5
    assert "the owner says no" in lines[0]


def test_one_that_is_refused_costs_its_neighbours_in_quarantine_nothing(bench: Bench, sql: Sql) -> None:
    sql(
        trigger("IF NEW.topic LIKE '%%/BAD-7' THEN RAISE EXCEPTION 'no sevens'; END IF; RETURN NEW;").replace("%%", "%")
    )
    bench.store_beside(lambda: nonsense(bench.publisher, 50))
    assert sql("SELECT count(*) FROM rejected_messages WHERE reason_code = 'invalid_json'") == [(49,)]
    assert metric(bench.ingestor, NOT_KEPT) == 1


def test_a_lock_that_somebody_holds(bench: Bench, database_url: str) -> None:
    with psycopg.connect(database_url) as other:
        other.execute("LOCK TABLE rejected_messages")
        for _ in range(5):
            bench.store_beside(lambda: nonsense(bench.publisher))
        other.rollback()
    assert metric(bench.ingestor, NOT_KEPT) > 0
    assert_books_balance(bench.ingestor)
    bench.store_beside(lambda: nonsense(bench.publisher))


def test_topics_and_payloads_of_any_size_and_kind(bench: Bench, sql: Sql) -> None:
    characters = string.ascii_letters + string.digits + "_-"
    random_id = "".join(random.Random(20260131).choices(characters, k=5000))
    messages = [
        (f"v1/telemetry/meter/{random_id}", b"{}"),
        ("v1/telemetry/meter/" + "\N{CJK UNIFIED IDEOGRAPH-4E2D}" * 20_000, b"{}"),
        ("v1/telemetry/" + "/" * 150 + "x" * 60_000, b""),
        ("v1/telemetry/meter/LARGE", b"x" * 1_000_000),
        ("v1/telemetry/meter/EDGE", b"x" * 65_536),
        ("v1/telemetry/meter/TOO-LARGE", b"x" * 1_000_001),
    ]

    def publish() -> None:
        for topic, payload in messages:
            bench.publisher.publish(topic, payload)

    bench.store_beside(publish)
    rows = sql("SELECT topic_bytes, octet_length(topic), payload_bytes, octet_length(payload) FROM rejected_messages")
    sizes = [(len(topic.encode()), len(payload)) for topic, payload in messages]
    kept = [(topic, min(topic, 1000), payload, payload if payload <= 1_000_000 else 65_536) for topic, payload in sizes]
    assert sorted(rows) == sorted(kept)
    whole = [hashlib.sha256(topic.encode() + b"\0" + payload).digest() for topic, payload in messages]
    assert {digest for (digest,) in sql("SELECT sha256 FROM rejected_messages")} == set(whole)
    assert metric(bench.ingestor, NOT_KEPT) == 0
    assert_books_balance(bench.ingestor)
