"""Each part of wattline has the rights that it needs, and is refused all others."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from datetime import UTC, date, datetime, timedelta

import psycopg
import pytest
from psycopg.conninfo import make_conninfo

from config.logins import Login
from ingestor.clocks import Clocks
from ingestor.housekeeping import retention
from ingestor.schema import logins
from ingestor.schema.migrate import BehindError, MigrationError
from ingestor.schema.partitions import NoPartitionError, ensure_partitions, partition_name
from ingestor.schema.roles import ROLES
from ingestor.schema.up_to_date import bring_up_to_date
from postgres.connecting import connect
from tests.logins import House, house, migrated

DAY = date(2026, 1, 31)

# All that each role may do, table by table: what is not here is refused. Columns stand in brackets.
MAY = {
    "wattline_ingest": {
        "meter_readings_history": "INSERT SELECT",
        "vehicle_readings_history": "INSERT SELECT",
        "meter_status": "INSERT SELECT UPDATE",
        "vehicle_status": "INSERT SELECT UPDATE",
        "meter_hourly": "DELETE INSERT SELECT",
        "vehicle_hourly": "DELETE INSERT SELECT",
        "hourly_invalidations": "DELETE INSERT SELECT",
        "rejected_messages": "DELETE INSERT MAINTAIN SELECT UPDATE(reason,reason_code,refused_again_at,replayed_at)",
        "hourly_places": "SELECT",
        "mqtt_subscriptions": "DELETE INSERT SELECT",
        "annulments": "SELECT",
        "annulled_readings": "SELECT",
        "retention_progress": "SELECT",
        "schema_migrations": "SELECT",
    },
    "wattline_api": {
        "meter_readings_history": "SELECT",
        "vehicle_readings_history": "SELECT",
        "meter_status": "SELECT",
        "vehicle_status": "SELECT",
        "meter_hourly": "SELECT",
        "vehicle_hourly": "SELECT",
        "hourly_invalidations": "SELECT",
        "annulments": "SELECT",
        "annulled_readings": "SELECT",
        "forgotten_devices": "SELECT",
        "schema_migrations": "SELECT",
        "vehicle_meter_links": "DELETE INSERT SELECT UPDATE",
    },
    "wattline_ledger": {
        "meter_readings_history": "DELETE INSERT SELECT",
        "vehicle_readings_history": "DELETE INSERT SELECT",
        "meter_status": "DELETE INSERT SELECT UPDATE",
        "vehicle_status": "DELETE INSERT SELECT UPDATE",
        "hourly_invalidations": "INSERT SELECT",
        "annulments": "INSERT SELECT UPDATE",
        "annulled_readings": "DELETE INSERT SELECT",
        "forgotten_devices": "INSERT SELECT UPDATE",
        "schema_migrations": "SELECT",
    },
    "wattline_monitor": {
        "meter_status": "SELECT(last_reading,last_updated,meter_id,usual_interval_seconds)",
        "vehicle_status": "SELECT(last_reading,last_updated,usual_interval_seconds,vehicle_id)",
        "rejected_messages": "SELECT"
        "(id,payload_bytes,reason_code,received_at,refused_again_at,replayed_at,topic_bytes)",
        "hourly_invalidations": "SELECT",
        "retention_progress": "SELECT",
        "schema_migrations": "SELECT",
    },
}

# What the catalogue says each role may do with each table and view there is, partitions aside, in the words of MAY.
WHAT_IT_MAY = """
    SELECT relname::text, string_agg(word, ' ' ORDER BY word)
    FROM pg_class CROSS JOIN LATERAL (
        SELECT privilege AS word FROM unnest(%(privileges)s::text[]) AS privilege
        WHERE has_table_privilege(%(role)s, pg_class.oid, privilege)
        UNION ALL
        SELECT privilege || '(' || string_agg(attname, ',' ORDER BY attname) || ')'
        FROM pg_attribute, unnest('{SELECT,INSERT,UPDATE,REFERENCES}'::text[]) AS privilege
        WHERE attrelid = pg_class.oid AND attnum > 0 AND NOT attisdropped
            AND has_column_privilege(%(role)s, pg_class.oid, attnum, privilege)
            AND NOT has_table_privilege(%(role)s, pg_class.oid, privilege)
        GROUP BY privilege
    ) AS granted
    WHERE relnamespace = 'public'::regnamespace AND relkind IN ('r', 'p', 'v', 'm', 'f')
    GROUP BY relname ORDER BY relname"""
PRIVILEGES = ["SELECT", "INSERT", "UPDATE", "DELETE", "TRUNCATE", "REFERENCES", "TRIGGER"]

# Of each login: what it is refused, whoever asks in its name.
NOBODY_MAY = (
    "DROP TABLE meter_hourly",
    "ALTER TABLE meter_readings_history DETACH PARTITION {day}",
    "DROP TABLE {day}",
    "DELETE FROM {day}",
    "INSERT INTO {day} VALUES ('M', now(), 1, 1)",
    "TRUNCATE meter_readings_history",
    "ALTER TABLE meter_status ADD COLUMN mine int",
    "CREATE TABLE mine ()",
    "CREATE FUNCTION mine() RETURNS int LANGUAGE sql AS 'SELECT 1'",
    "CREATE TRIGGER mine BEFORE INSERT ON meter_status EXECUTE FUNCTION suppress_redundant_updates_trigger()",
    "CREATE SCHEMA mine",
    "CREATE ROLE mine",
    "ALTER ROLE owner PASSWORD 'mine'",
    "SET ROLE owner",
    "SELECT rolpassword FROM pg_authid",
    "COPY (SELECT 1) TO PROGRAM 'true'",
    "SELECT pg_read_file('postgresql.conf')",
    "INSERT INTO schema_migrations (version, name, checksum) VALUES (99, 'mine', '')",
    "DELETE FROM annulments",
    "UPDATE meter_readings_history SET kwh_consumed_ac = 0",
)
REFUSED = {
    "ingestor": (
        "SELECT * FROM vehicle_meter_links",
        "INSERT INTO vehicle_meter_links VALUES ('V', 'M', now())",
        "DELETE FROM meter_readings_history",
        "DELETE FROM meter_status",
        "INSERT INTO annulled_readings SELECT * FROM annulled_readings",
        "UPDATE rejected_messages SET payload = ''",
        "INSERT INTO retention_progress (kept_from) VALUES ('2999-01-01')",
        "SELECT * FROM forgotten_devices",
        "SET ROLE wattline_api",
    ),
    "reader": (
        "INSERT INTO meter_readings_history VALUES ('M', now(), 1, 1)",
        "COPY meter_readings_history FROM STDIN",
        "DELETE FROM meter_readings_history",
        "UPDATE meter_status SET voltage = 0",
        "INSERT INTO hourly_invalidations VALUES ('meter', now())",
        "INSERT INTO annulments DEFAULT VALUES",
        "SELECT payload FROM rejected_messages",
        "SELECT make_day_partition('meter_readings_history', '2026-01-31')",
        "SET ROLE wattline_ledger",
    ),
    "bookkeeper": (
        "SELECT * FROM vehicle_meter_links",
        "SELECT payload FROM rejected_messages",
        "INSERT INTO meter_hourly VALUES (now(), 'M', 1, 1)",
        "SELECT make_day_partition('meter_readings_history', '2026-01-31')",
    ),
    "watcher": (
        "SELECT * FROM meter_readings_history",
        "SELECT voltage FROM meter_status",
        "SELECT payload FROM rejected_messages",
        "SELECT topic FROM rejected_messages",
        "SELECT reason FROM rejected_messages",
        "SELECT * FROM vehicle_meter_links",
        "UPDATE meter_status SET last_reading = now()",
        "SELECT make_day_partition('meter_readings_history', '2026-01-31')",
    ),
}


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Iterator[House]:
    with house(tmp_path_factory.mktemp("house") / "postgres") as made:
        yield made


@pytest.mark.parametrize("role", ROLES)
def test_what_each_role_may_is_all_that_it_may(home: House, role: str) -> None:
    with psycopg.connect(home.administrator) as connection:
        knows_maintain = connection.info.server_version >= 170_000
        privileges = [*PRIVILEGES, *(["MAINTAIN"] if knows_maintain else [])]
        found = connection.execute(WHAT_IT_MAY, {"role": role, "privileges": privileges}).fetchall()
    wanted = MAY[role] if knows_maintain else {table: may.replace("MAINTAIN ", "") for table, may in MAY[role].items()}
    assert dict(found) == wanted


@pytest.mark.parametrize("user", REFUSED)
def test_what_each_login_is_refused(home: House, user: str) -> None:
    day = partition_name("meter_readings_history", datetime.now(UTC).date())
    with psycopg.connect(home.url(user), autocommit=True) as connection:
        for statement in (*NOBODY_MAY, *REFUSED[user]):
            with pytest.raises(psycopg.errors.InsufficientPrivilege):
                connection.execute(statement.format(day=day).encode())


def test_the_ingestor_makes_any_day_and_the_owner_has_it(home: House) -> None:
    async def story() -> None:
        async with await connect(home.url("ingestor"), autocommit=True) as session:
            made = await ensure_partitions(session, [DAY])
            assert made == [f"{kind}_readings_history_p20260131" for kind in ("meter", "vehicle")]
            assert await ensure_partitions(session, [DAY]) == []
            await session.execute("INSERT INTO meter_readings_history VALUES ('M', '2026-01-31T23:59:59Z', 1, 230)")

    asyncio.run(story())
    with psycopg.connect(home.administrator) as connection:
        owners = connection.execute(
            "SELECT DISTINCT pg_get_userbyid(relowner)::text FROM pg_class WHERE relname LIKE '%_p20260131'"
        ).fetchall()
    assert owners == [("owner",)]


def test_the_function_makes_days_and_nothing_else(home: House) -> None:
    """It runs with the owner's rights: neither its arguments nor the caller's session may lead it elsewhere."""
    with psycopg.connect(home.url("ingestor"), autocommit=True) as connection:

        def made(table: str, day: str) -> bool:
            row = connection.execute("SELECT make_day_partition(%s::regclass, %s)", [table, day]).fetchone()
            return row == (True,)

        assert not made("meter_status", "2026-02-01")
        assert not made("pg_class", "2026-02-01")
        assert not made("meter_readings_history", "infinity")
        connection.execute("CREATE TEMP TABLE lure_readings_history (ts timestamptz) PARTITION BY RANGE (ts)")
        assert not made("lure_readings_history", "2026-02-01")
        # What the caller's session finds first is not what the function finds.
        connection.execute("CREATE TEMP TABLE pg_class AS SELECT * FROM pg_catalog.pg_class")
        connection.execute("CREATE FUNCTION pg_temp.format(text, text, text) RETURNS text LANGUAGE sql AS 'SELECT $1'")
        connection.execute("SET search_path = pg_temp, pg_catalog, public")
        connection.execute(
            "SET TimeZone = 'Asia/Kolkata'; SET DateStyle = 'German'; SET standard_conforming_strings = off"
        )
        assert made("public.meter_readings_history", "02.01.2026")
    with psycopg.connect(home.administrator) as connection:
        bounds = connection.execute(
            "SELECT pg_get_expr(relpartbound, oid) FROM pg_class WHERE relname = 'meter_readings_history_p20260102'"
        ).fetchone()
    assert bounds == ("FOR VALUES FROM ('2026-01-02 00:00:00+00') TO ('2026-01-03 00:00:00+00')",)


def test_somebody_else_s_table_is_not_made_a_day(home: House) -> None:
    """Its triggers would run in every flush."""
    with psycopg.connect(home.administrator, autocommit=True) as connection:
        connection.execute("CREATE TABLE meter_readings_history_p20260203 (LIKE meter_readings_history)")

    async def story() -> None:
        async with await connect(home.url("ingestor"), autocommit=True) as session:
            with pytest.raises(NoPartitionError, match="meter_readings_history_p20260203 cannot be made: a table"):
                await ensure_partitions(session, [date(2026, 2, 3)])

    asyncio.run(story())


def test_who_may_not_migrate_waits_for_the_owner(home: House) -> None:
    """Nothing is tried that the user may not do, and the line says who has to do what."""

    async def story() -> None:
        async with await connect(home.url("ingestor"), autocommit=True) as session:
            await bring_up_to_date(session, "house")
            with psycopg.connect(home.administrator, autocommit=True) as administrator:
                row = administrator.execute(
                    "DELETE FROM schema_migrations WHERE version = (SELECT max(version) FROM schema_migrations)"
                    " RETURNING *"
                ).fetchone()
            assert row is not None
            with pytest.raises(
                BehindError, match=rf"lacks {row[1]}, and user ingestor may not make it: run `wattline mi"
            ):
                await bring_up_to_date(session, "house")
            with psycopg.connect(home.administrator, autocommit=True) as administrator:
                administrator.execute("INSERT INTO schema_migrations VALUES (%s, %s, %s, %s)", row)
            await bring_up_to_date(session, "house")

    asyncio.run(story())


def test_only_the_owner_drops_what_is_past_its_retention(home: House, caplog: pytest.LogCaptureFixture) -> None:
    """And sums of a day that is still there stay too: without them its answers would be wrong."""
    held: list[int] = []
    clocks = Clocks(300)
    chore = retention.chore(30, clocks, held.append)

    async def round_of_ingestor() -> None:
        async with await connect(home.url("ingestor"), autocommit=True) as session:
            await chore.round(session)

    def left() -> list[str]:
        with psycopg.connect(home.administrator) as connection:
            return [
                name
                for (name,) in connection.execute(
                    "SELECT relname::text FROM pg_class WHERE relname LIKE 'meter_readings_history_p%' ORDER BY 1"
                )
            ]

    old = datetime.now(UTC).date() - timedelta(days=40)

    async def make() -> None:
        async with await connect(home.url("ingestor"), autocommit=True) as session:
            await ensure_partitions(session, [old])
            await session.execute(
                "INSERT INTO meter_hourly VALUES (%s, 'M', 1, 1)", [datetime.combine(old, datetime.min.time(), UTC)]
            )
            await session.execute("INSERT INTO meter_status VALUES ('M', 1, 230, now(), now())")

    asyncio.run(make())
    before = left()
    asyncio.run(round_of_ingestor())
    assert left() == before
    assert held[-1] >= 1
    assert "this user may not drop them; `wattline retention keep` does, as the owner" in caplog.text
    with psycopg.connect(home.administrator) as connection:
        assert connection.execute("SELECT count(*) FROM meter_hourly").fetchone() == (1,)

    async def drop() -> None:
        async with await connect(home.url("owner"), autocommit=True) as session:
            await retention.drop_due(session, 30, clocks, yes=True)

    asyncio.run(drop())
    assert partition_name("meter_readings_history", old) not in left()


def test_logins_are_made_as_the_setting_says(home: House) -> None:
    def roles(user: str) -> list[str]:
        with psycopg.connect(home.administrator) as connection:
            return [
                role
                for (role,) in connection.execute(
                    "SELECT roleid::regrole::text FROM pg_auth_members WHERE member = %s::regrole ORDER BY 1", [user]
                )
            ]

    def logs_in(password: str) -> bool:
        try:
            psycopg.connect(make_conninfo(home.url("desk"), password=password)).close()
        except psycopg.OperationalError:
            return False
        return True

    asyncio.run(migrated(home.url("owner"), Login("desk", ("api", "ledger"), "first-of-desk")))
    assert roles("desk") == ["wattline_api", "wattline_ledger"]
    assert logs_in("first-of-desk")
    asyncio.run(migrated(home.url("owner"), Login("desk", ("api",), "second-of-desk")))
    assert roles("desk") == ["wattline_api"]
    assert logs_in("second-of-desk")
    assert not logs_in("first-of-desk")


@pytest.mark.parametrize("user", ["owner", "postgres"])
def test_no_login_is_made_of_somebody_with_rights_of_its_own(home: House, user: str) -> None:
    with pytest.raises(MigrationError, match=f"DATABASE_LOGINS: {user} is there already and more than a login"):
        asyncio.run(migrated(home.url("owner"), Login(user, ("api",), "mine")))
    psycopg.connect(home.url("owner")).close()


def test_who_may_not_make_logins_is_told_what_to_do(home: House) -> None:
    with pytest.raises(MigrationError, match=r"DATABASE_LOGINS: this user may not make them .*CREATEROLE"):
        asyncio.run(migrated(home.url("ingestor"), Login("desk", ("api",), "mine")))


def test_a_password_is_in_no_statement(home: House) -> None:
    """A server may log what it is told, and shows it in pg_stat_activity."""

    async def story() -> str:
        async with await connect(home.url("owner"), autocommit=True) as connection:
            statements = await logins._statements(connection, Login("quiet", ("monitor",), "a-password-to-hide"))
            return " ".join(each.as_string(connection) for each in statements)

    told = asyncio.run(story())
    assert "PASSWORD 'SCRAM-SHA-256$" in told
    assert "a-password-to-hide" not in told
