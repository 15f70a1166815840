"""Whatever a server's owner made the default of a database or a user, everything works as on a plain one.

One broker, three databases with an ingestor and an API each: plain, odd defaults of the database, odd defaults of the
user. The devices' messages go to all three, and the answers have to be the same to the byte.
"""

from __future__ import annotations

import json
import uuid
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

import httpx
import psycopg
import pytest
from psycopg import sql
from psycopg.conninfo import make_conninfo

from tests.backends import Broker, Database
from tests.devices import Device, meter_reading, vehicle_reading
from tests.faults.counting import assert_books_balance
from tests.faults.load import publish_all
from tests.integration.test_session import ODD_DEFAULTS
from tests.metrics import metric
from tests.processes import WattlineProcess
from tests.waiting import wait_until

PASSWORD = "of-an-odd-user"
CHORE_DONE = "wattline_chore_last_success_timestamp_seconds"
NOT_JSON = b'{"meterId":"\\001\xff\x00'
# In a schema that stands first in the odd search_path: what must not be found in the place of ours.
SHADOWS = """
    CREATE SCHEMA odd;
    CREATE TABLE odd.meter_status (nothing text);
    CREATE TABLE odd.rejected_messages (nothing text);
    CREATE TABLE odd.schema_migrations (version text);
    CREATE FUNCTION odd.now() RETURNS timestamptz LANGUAGE sql AS $$ SELECT timestamptz '1999-01-01' $$;
    CREATE FUNCTION odd.unnest(text[]) RETURNS text LANGUAGE sql AS $$ SELECT 'shadow' $$;
"""


@dataclass(frozen=True)
class System:
    """An ingestor and an API on a database of their own."""

    url: str
    ingestor: WattlineProcess
    api: WattlineProcess
    environment: dict[str, str]


def set_odd_defaults(connection: psycopg.Connection[tuple[object, ...]], whose: sql.Composable) -> None:
    for name, value in ODD_DEFAULTS.items():
        values = sql.SQL(", ").join(map(sql.Literal, value.split(", ") if name == "search_path" else [value]))
        connection.execute(sql.SQL("ALTER {} SET {} TO {}").format(whose, sql.SQL(name), values))


@pytest.fixture
def odd_user(postgres_server: Database) -> Iterator[str]:
    name = f"odd_{uuid.uuid4().hex}"
    with psycopg.connect(postgres_server.url_of("postgres"), autocommit=True) as connection:
        connection.execute(f"CREATE ROLE {name} LOGIN SUPERUSER PASSWORD '{PASSWORD}'".encode())
        yield name
        connection.execute(f"REASSIGN OWNED BY {name} TO CURRENT_USER".encode())
        connection.execute(f"DROP OWNED BY {name}".encode())
        connection.execute(f"DROP ROLE {name}".encode())


@pytest.fixture
def systems(
    make_database: Callable[..., str], odd_user: str, broker: Broker, start_wattline: Callable[..., WattlineProcess]
) -> list[System]:
    """Plain, odd database, odd user."""
    urls = [make_database() for _ in range(3)]
    for process in [start_wattline("migrate", DATABASE_URL=url) for url in urls]:
        assert process.wait() == 0, process.output()
    for url in urls:
        with psycopg.connect(url, autocommit=True) as connection:
            connection.execute(SHADOWS.encode())
    with psycopg.connect(urls[1], autocommit=True) as connection:
        set_odd_defaults(connection, sql.SQL("DATABASE {}").format(sql.Identifier(connection.info.dbname)))
    with psycopg.connect(urls[2], autocommit=True) as connection:
        set_odd_defaults(connection, sql.SQL("ROLE {}").format(sql.Identifier(odd_user)))
    theirs = [urls[0], urls[1], make_conninfo(urls[2], user=odd_user, password=PASSWORD)]
    found = []
    for number, url in enumerate(theirs):
        environment = {"DATABASE_URL": url, "MQTT_URL": broker.url, "MQTT_CLIENT_ID": f"system-{number}"}
        ingestor = start_wattline("ingest", **environment, RETENTION_DAYS="30")
        found.append(System(urls[number], ingestor, start_wattline("api", **environment), environment))
    for system in found:
        system.ingestor.wait_ready()
        system.api.wait_ready()
    return found


def test_everything_works_under_odd_defaults(
    systems: list[System], publisher: Device, start_wattline: Callable[..., WattlineProcess]
) -> None:
    hour = datetime.now(UTC).replace(minute=0, second=0, microsecond=0) - timedelta(hours=2)
    published = []
    for minute in range(0, 60, 5):
        at = hour + timedelta(minutes=minute, microseconds=123_456)
        published += [
            ("meter", meter_reading("METER-1", at, kwhConsumedAc=0.1 + minute / 7, voltage=1 / 3)),
            ("vehicle", vehicle_reading("VEH-1", at, kwhDeliveredDc=0.09 + minute / 7.7, batteryTemp=-1e-3)),
        ]
    late = ("meter", meter_reading("METER-1", hour + timedelta(minutes=2)))
    for topic, payload in (("v1/telemetry/meter/Zähler ⚡\\", b"{}"), ("v1/telemetry/meter/METER-1", NOT_JSON)):
        publisher.publish(topic, payload)
    publish_all(publisher, published)
    publish_all(publisher, published)  # the way of the merge
    readings, refused = len(published), 2
    for system in systems:
        name = "wattline_readings_duplicate_total"
        wait_until(lambda one=system, name=name: metric(one.ingestor, name) == readings, what="the repetitions")
        # Past hours are summed; then one reading more comes into an hour that has its sum, for one device.
        wait_until(lambda one=system: not _rows(one, "SELECT FROM public.hourly_invalidations"), what="the sums")
    publish_all(publisher, [late])
    for system in systems:
        wait_until(lambda one=system: metric(one.ingestor, "wattline_readings_committed_total") == readings + 1)
        wait_until(lambda one=system: not _rows(one, "SELECT FROM public.hourly_invalidations"), what="the sums")
        assert metric(system.ingestor, "wattline_readings_rejected_total") == refused
        assert metric(system.ingestor, "wattline_rejected_not_kept_total") == 0
        assert metric(system.ingestor, "wattline_flush_failures_total") == 0
        assert metric(system.ingestor, "wattline_chore_failures_total") == 0
        for chore in ("partitions", "retention", "quarantine", "hourly", "intervals", "gauges"):
            wait_until(lambda one=system, chore=chore: metric(one.ingestor, CHORE_DONE, chore=chore) > 0, what=chore)
        assert_books_balance(system.ingestor)

    answers = [_answers(system, hour) for system in systems]
    assert answers[1] == answers[0]
    assert answers[2] == answers[0]
    kept = [_listed(system, start_wattline) for system in systems]
    assert len(kept[0]) == refused
    assert kept[1] == kept[0]
    assert kept[2] == kept[0]
    for system in systems[1:]:
        replay = start_wattline("rejected", "replay", "--id", "1", "2", **system.environment)
        assert replay.wait() == 1, replay.output()
        assert "refused again 2, skipped 0" in replay.output()
        assert len(_listed(system, start_wattline)) == refused


def _rows(system: System, query: str) -> list[tuple[object, ...]]:
    with psycopg.connect(system.url, options="-c statement_timeout=0 -c lock_timeout=0") as connection:
        return connection.execute(query.encode()).fetchall()


def _answers(system: System, hour: datetime) -> list[object]:
    """What the API says, but for when a row was stored."""
    end = f"{hour + timedelta(hours=1):%Y-%m-%dT%H:%M:%SZ}"
    with ExitStack() as stack:
        client = stack.enter_context(httpx.Client(base_url=system.api.http_url))
        said: list[object] = []
        for path in (
            "/v1/telemetry/meter/METER-1/status",
            "/v1/telemetry/vehicle?limit=10",
            f"/v1/telemetry/meter/METER-1/history?limit=50&to={end}",
            f"/v1/analytics/performance/VEH-1?hours=1&end={end}",
            "/v1/analytics/fleet?hours=3",
            "/v1/analytics/fleet/vehicles?hours=3",
        ):
            answer = client.get(path)
            assert answer.status_code == 200, answer.text
            said.append(_without_moments(answer.json()))
        csv = client.get(f"/v1/telemetry/vehicle/VEH-1/history?to={end}", headers={"Accept": "text/csv"})
        assert csv.status_code == 200
        lines = csv.text.splitlines()
        assert lines[0].endswith(",ingestedAt")
        assert "acts as the role wattline_api" in system.api.output()
        return [*said, [line.rpartition(",")[0] for line in lines]]


def _without_moments(value: object) -> object:
    if isinstance(value, dict):
        moments = ("lastUpdated", "ingestedAt", "nextCursor", "period")
        return {name: _without_moments(item) for name, item in value.items() if name not in moments}
    return [_without_moments(item) for item in value] if isinstance(value, list) else value


def _listed(system: System, start_wattline: Callable[..., WattlineProcess]) -> list[dict[str, object]]:
    listing = start_wattline("rejected", "list", "--json", **system.environment)
    assert listing.wait() == 0, listing.output()
    found = [json.loads(line) for line in listing.output().splitlines() if line.startswith("{")]
    return [{name: value for name, value in row.items() if name not in ("id", "receivedAt")} for row in found]
