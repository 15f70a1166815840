"""PostgreSQL says no: to a value, to a day, to the user, to a lock. Only a value may cost a reading its place."""

from __future__ import annotations

import json
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from urllib.parse import urlsplit

import psycopg
import pytest

from ingestor.schema.partitions import partition_name
from tests.devices import Device, meter_reading, readings_of_fleet
from tests.faults.conftest import Sql
from tests.faults.counting import as_stored, assert_books_balance, assert_stored_once, rows_in_history
from tests.faults.flushes import wait_until_blocked
from tests.faults.load import Load, publish_all, publish_last
from tests.metrics import metric
from tests.processes import WattlineProcess, get_status
from tests.waiting import wait_until

StartIngestor = Callable[..., WattlineProcess]

POISONED_VOLTAGE, POISONED_SOC = 66, 67
OWNERS_RULES = f"""
    ALTER TABLE meter_readings_history ADD CONSTRAINT no_bad_luck CHECK (voltage <> {POISONED_VOLTAGE});
    CREATE FUNCTION refuse() RETURNS trigger LANGUAGE plpgsql AS $$
        BEGIN
            IF NEW.soc = {POISONED_SOC} THEN RAISE EXCEPTION 'no such charge'; END IF;
            RETURN NEW;
        END $$;
    CREATE TRIGGER refuse BEFORE INSERT ON vehicle_readings_history FOR EACH ROW EXECUTE FUNCTION refuse();
"""


def is_poisoned(kind: str, payload: dict[str, object]) -> bool:
    return payload["voltage"] == POISONED_VOLTAGE if kind == "meter" else payload["soc"] == POISONED_SOC


def test_values_that_are_refused_go_to_quarantine_alone(
    start_ingestor: StartIngestor, database_url: str, publisher: Device, sql: Sql
) -> None:
    ingestor = start_ingestor()
    sql(OWNERS_RULES)
    readings = list(readings_of_fleet(3000))
    poisoned = [reading for reading in readings if is_poisoned(*reading)]
    publish_all(publisher, readings)
    last = publish_last(publisher, database_url)
    assert_stored_once(database_url, [*(reading for reading in readings if not is_poisoned(*reading)), last])

    kept = sql("SELECT topic, payload, reason_code, reason FROM rejected_messages")
    assert as_stored((topic.split("/")[2], json.loads(payload)) for topic, payload, _, _ in kept) == as_stored(poisoned)
    assert len(kept) == len(poisoned) > 30
    assert {code for _, _, code, _ in kept} == {"database_refused"}
    assert {reason.rpartition("(")[2] for _, _, _, reason in kept} == {"23514)", "P0001)"}
    assert assert_books_balance(ingestor) == len(readings) + 1
    assert metric(ingestor, "wattline_readings_rejected_total", reason="database_refused") == len(poisoned)
    wait_until(lambda: metric(ingestor, "wattline_inflight_messages") == 0, what="everything is acknowledged")
    assert metric(ingestor, "wattline_mqtt_reconnects_total") == 0
    assert get_status(f"{ingestor.metrics_url}/readyz") == 200


def test_a_partition_dropped_under_the_ingestor_is_made_again(
    start_ingestor: StartIngestor, database_url: str, publisher: Device, sql: Sql
) -> None:
    ingestor = start_ingestor()
    noon = (datetime.now(UTC) - timedelta(days=5)).replace(hour=12)
    partition = partition_name("meter_readings_history", noon.date())
    readings = [("meter", meter_reading("LATE", noon + timedelta(seconds=second))) for second in range(200)]
    dropped, stored = readings[:100], readings[100:]
    publish_all(publisher, dropped)
    wait_until(lambda: sql("SELECT count(*) FROM meter_readings_history") == [(100,)], 10, "the first are stored")
    sql(f"DROP TABLE {partition}")
    publish_all(publisher, stored)
    last = publish_last(publisher, database_url)
    assert_stored_once(database_url, [*stored, last])
    assert sql("SELECT to_regclass(%s) IS NOT NULL", partition) == [(True,)]
    assert metric(ingestor, "wattline_flush_failures_total", error="partition") >= 1
    assert metric(ingestor, "wattline_readings_rejected_total") == 0
    assert assert_books_balance(ingestor) == len(readings) + 1


@pytest.mark.empty_database
def test_a_permission_taken_away_and_given_back(
    start_ingestor: StartIngestor, database_url: str, owner_url: str, publisher: Device, sql: Sql
) -> None:
    ingestor, owner = start_ingestor(DATABASE_URL=owner_url), urlsplit(owner_url).username
    with Load(publisher, 200) as load:
        load.wait_published(200)
        sql(f"REVOKE INSERT ON meter_status FROM {owner}")
        wait_until(lambda: get_status(f"{ingestor.metrics_url}/readyz") == 503, what="not ready without the permission")
        sql(f"GRANT INSERT ON meter_status TO {owner}")
        wait_until(lambda: get_status(f"{ingestor.metrics_url}/readyz") == 200, what="ready again by itself")
        published = load.finish(database_url)
    assert_stored_once(database_url, published)
    assert assert_books_balance(ingestor) == len(published)
    assert metric(ingestor, "wattline_flush_failures_total", error="fault") == 1
    complaints = [line for line in ingestor.output().splitlines() if " ERROR " in line]
    assert len(complaints) == 1
    assert "permission denied for table meter_status; grant it to the user" in complaints[0]
    assert "secret" not in ingestor.output()


def test_a_deadlock_with_another_session(start_ingestor: StartIngestor, database_url: str, publisher: Device) -> None:
    ingestor = start_ingestor(FLUSH_INTERVAL_MS="500")
    touch = "UPDATE meter_status SET last_updated = last_updated WHERE meter_id = %s"
    start = datetime.now(UTC)
    before, after = (
        [("meter", meter_reading(device, start + timedelta(seconds=second))) for device in "AB"] for second in (0, 1)
    )
    publish_all(publisher, before)
    wait_until(lambda: rows_in_history(database_url) == len(before), 10, "A and B are known")
    with psycopg.connect(database_url) as other:
        other.execute("SET deadlock_timeout = '1min'")  # so that the flush is the one that gives way
        other.execute(touch, ["B"])
        publish_all(publisher, after)
        wait_until_blocked(database_url, "wattline ingest")
        other.execute(touch, ["A"])
    last = publish_last(publisher, database_url)
    assert_stored_once(database_url, [*before, *after, last])
    assert metric(ingestor, "wattline_flush_failures_total", error="transient") == 1
    assert "deadlock detected" in ingestor.output()
    assert assert_books_balance(ingestor) == len(before + after) + 1


def test_a_lock_that_is_not_had_in_time(start_ingestor: StartIngestor, database_url: str, publisher: Device) -> None:
    ingestor = start_ingestor()
    with Load(publisher, 500) as load, psycopg.connect(database_url) as other:
        other.execute("LOCK TABLE meter_status")
        failures = "wattline_flush_failures_total"
        wait_until(lambda: metric(ingestor, failures, error="transient") >= 1, what="an attempt has failed")
        assert get_status(f"{ingestor.metrics_url}/readyz") == 503
        assert "another session holds a lock" in ingestor.output()
        other.rollback()
        published = load.finish(database_url)
    assert_stored_once(database_url, published)
    assert assert_books_balance(ingestor) == len(published)


def test_a_late_day_that_cannot_be_made_now_holds_up_nobody(
    start_ingestor: StartIngestor, database_url: str, publisher: Device
) -> None:
    """A VACUUM, an index that is built, or a forgotten BEGIN before a retention is in the way of its partition."""
    ingestor = start_ingestor(FLUSH_INTERVAL_MS="50")
    late = ("meter", meter_reading("LATE", datetime.now(UTC) - timedelta(days=5)))
    readings = list(readings_of_fleet(200))
    with psycopg.connect(database_url) as other:
        other.execute("LOCK TABLE meter_readings_history IN SHARE UPDATE EXCLUSIVE MODE")
        publish_all(publisher, [*readings[:100], late, *readings[100:]])
        wait_until(lambda: rows_in_history(database_url) == 200, 40, "all others are stored")
        publish_all(publisher, more := [("meter", meter_reading(f"MORE-{number}")) for number in range(50)])
        wait_until(lambda: rows_in_history(database_url) == 250, 10, "and so are those that come after")
        assert metric(ingestor, "wattline_readings_pending") == 1
        assert get_status(f"{ingestor.metrics_url}/readyz") == 503
        other.rollback()
    wait_until(lambda: rows_in_history(database_url) == 251, 60, "the late one too")
    assert_stored_once(database_url, [*readings, *more, late])
    assert assert_books_balance(ingestor) == 251
    wait_until(lambda: metric(ingestor, "wattline_inflight_messages") == 0, what="everything is acknowledged")
