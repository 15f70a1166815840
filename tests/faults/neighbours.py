"""Neighbours of the good readings: what a device, an owner, an administrator or a network may do beside them.

Each is a context: it begins, good readings go on being published, and it ends. None may lose, repeat or stop one of
them for longer than it lasts itself.
"""

from __future__ import annotations

import json
import os
import random
import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from typing import Any

import psycopg

from tests.backends import Broker
from tests.devices import Device, meter_reading, vehicle_reading
from tests.processes import WattlineProcess
from tests.proxy import TcpProxy
from tests.waiting import wait_until

STRANGE = "v1/telemetry/meter/"
ID_CHARACTERS = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789_-"


@dataclass
class Field:
    """Everything that neighbours can reach."""

    owner: psycopg.Connection[Any]
    """A session of the administrator, in autocommit mode."""
    url: str
    """Where the administrator connects."""
    role: str
    """Whom the ingestor connects as."""
    broker: Broker
    device: Device
    """A stranger; it does not publish the good readings."""
    ingestor: WattlineProcess
    network: TcpProxy
    """Between the ingestor and PostgreSQL."""
    rng: random.Random = field(default_factory=random.Random)

    def execute(self, *statements: str) -> None:
        """As the administrator, each statement a transaction; again where it met others at their work."""
        for statement in statements:
            wait_until(lambda statement=statement: self._executed(statement), 60, statement)

    def _executed(self, statement: str) -> bool:
        try:
            self.owner.execute("SET lock_timeout TO '2s'")
            self.owner.execute(statement.encode())
        except (psycopg.errors.DeadlockDetected, psycopg.errors.LockNotAvailable):
            return False
        return True

    def end_sessions(self) -> None:
        """As an administrator does whose change of a setting shall hold at once."""
        self.owner.execute("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE usename = %s", [self.role])

    def name(self, length: int) -> str:
        """Characters that an id may have."""
        return "".join(self.rng.choices(ID_CHARACTERS, k=length))


Neighbour = Callable[[Field], Any]
"""A function that makes a context."""


# Devices


@contextmanager
def long_topics(here: Field) -> Iterator[None]:
    """Too long for any index."""
    for length in (2_000, 5_000, 60_000):
        here.device.publish(STRANGE + here.name(length), {})
    yield


@contextmanager
def strange_topics(here: Field) -> Iterator[None]:
    """Legal for a broker, and for nobody else."""
    for topic in ("v1/telemetry/meter/電表", "v1/telemetry/", "v1/telemetry/meter//", "v1/telemetry/vehicle/a b\t"):
        here.device.publish(topic, {})
    yield


@contextmanager
def strange_payloads(here: Field) -> Iterator[None]:
    """What firmware makes of JSON."""
    topic = STRANGE + "STRANGE"
    deep, wide = b"[" * 100_000, json.dumps({f"field{number}": number for number in range(30_000)}).encode()
    many = json.dumps([1] * 200_000).encode()
    for payload in (b"", b"\x00", b"\xff\xfe", b"{", deep, wide, many, b"NaN", b'{"meterId":"\\ud800"}'):
        here.device.publish(topic, payload)
    yield


@contextmanager
def half_bad_arrays(here: Field) -> Iterator[None]:
    """The good half belongs to a device of its own."""
    good = [meter_reading("HALF-BAD", voltage=-1.0) for _ in range(500)]
    here.device.publish(STRANGE + "HALF-BAD", good)
    yield


@contextmanager
def wrong_clocks(here: Field) -> Iterator[None]:
    """Devices that live in another year."""
    for days in (-400, -31, 1, 4000):
        moment = meter_reading()["timestamp"]
        year = str(int(moment[:4]) + days // 365)
        here.device.meter(meter_reading("CLOCK", timestamp=year + moment[4:]))
    yield


@contextmanager
def other_qualities(here: Field) -> Iterator[None]:
    """Retained, QoS 0 and QoS 2."""
    here.device.publish(STRANGE + "RETAINED", {}, retain=True)
    here.device.publish(STRANGE + "QOS-0", {}, qos=0)
    here.device.publish(STRANGE + "QOS-2", {}, qos=2)
    yield


# Owners of the database


@contextmanager
def a_trigger_on_quarantine(here: Field) -> Iterator[None]:
    """At once, or only at COMMIT."""
    deferred = here.rng.random() < 0.5
    kind = "CONSTRAINT TRIGGER no_more AFTER" if deferred else "TRIGGER no_more BEFORE"
    when = "DEFERRABLE INITIALLY DEFERRED " if deferred else ""
    here.execute(
        "CREATE OR REPLACE FUNCTION refuse() RETURNS trigger LANGUAGE plpgsql AS"
        " $$ BEGIN RAISE EXCEPTION 'quarantine is closed'; END $$",
        f"CREATE {kind} INSERT ON rejected_messages {when}FOR EACH ROW EXECUTE FUNCTION refuse()",
    )
    here.device.publish(STRANGE + "REFUSED", {})
    yield
    here.execute("DROP TRIGGER no_more ON rejected_messages")


@contextmanager
def a_lock_on_quarantine(here: Field) -> Iterator[None]:
    """Somebody looks into it, with a heavy hand."""
    with psycopg.connect(here.url) as session:
        session.execute("LOCK TABLE rejected_messages IN ACCESS EXCLUSIVE MODE")
        here.device.publish(STRANGE + "LOCKED-OUT", {})
        yield


@contextmanager
def a_forgotten_transaction(here: Field) -> Iterator[None]:
    """In somebody's psql."""
    with psycopg.connect(here.url) as session:
        session.execute("SELECT count(*) FROM meter_readings_history")
        yield


@contextmanager
def a_trigger_against_one_device(here: Field) -> Iterator[None]:
    """What PostgreSQL refuses of one device is no other's affair."""
    here.execute(
        "CREATE OR REPLACE FUNCTION no_victim() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN"
        " IF NEW.vehicle_id = 'VICTIM' THEN RAISE EXCEPTION 'not this one' USING ERRCODE = 'check_violation'; END IF;"
        " RETURN NEW; END $$",
        "CREATE TRIGGER no_victim BEFORE INSERT ON vehicle_readings_history FOR EACH ROW EXECUTE FUNCTION no_victim()",
    )
    for milliseconds in range(3):
        reading = vehicle_reading("VICTIM")
        here.device.vehicle(reading | {"soc": milliseconds})
    yield
    here.execute("DROP TRIGGER no_victim ON vehicle_readings_history")


@contextmanager
def odd_defaults(here: Field) -> Iterator[None]:
    """Settings of the database that everybody gets who does not set them."""
    name = here.owner.info.dbname
    settings = ["datestyle TO 'German, DMY'", "timezone TO 'Asia/Kolkata'", "bytea_output TO 'escape'"]
    settings += ["default_transaction_isolation TO 'serializable'", "statement_timeout TO '1ms'"]
    setting = here.rng.choice(settings)
    here.execute(f"ALTER DATABASE {name} SET {setting}")
    here.end_sessions()
    yield
    here.execute(f"ALTER DATABASE {name} RESET ALL")
    here.end_sessions()


@contextmanager
def a_server_that_only_reads(here: Field) -> Iterator[None]:
    """As after a failover: the session stays, and may not write."""
    name = here.owner.info.dbname
    here.execute(f"ALTER DATABASE {name} SET default_transaction_read_only TO on")
    here.end_sessions()
    yield
    here.execute(f"ALTER DATABASE {name} RESET ALL")


@contextmanager
def ended_sessions(here: Field) -> Iterator[None]:
    """An administrator, or the server's idle timeout."""
    here.end_sessions()
    yield


@contextmanager
def a_backend_that_stops(here: Field) -> Iterator[None]:
    """For a while; it goes on where it was."""
    query = "SELECT pid FROM pg_stat_activity WHERE usename = %s AND application_name LIKE 'wattline ingest%%'"
    pids = [row[0] for row in here.owner.execute(query, [here.role]).fetchall()]
    _signal(pids, signal.SIGSTOP)
    yield
    _signal(pids, signal.SIGCONT)


def _signal(pids: list[int], sign: signal.Signals) -> None:
    for pid in pids:
        with suppress(ProcessLookupError):  # it has ended meanwhile
            os.kill(pid, sign)


# Networks, brokers, administrators of the machine


@contextmanager
def a_cut_network(here: Field) -> Iterator[None]:
    """Connections are reset."""
    here.network.cut()
    yield


@contextmanager
def a_silent_network(here: Field) -> Iterator[None]:
    """Connections stay, and nothing comes."""
    here.network.blackhole()
    yield
    here.network.restore()


@contextmanager
def a_broker_restarted(here: Field) -> Iterator[None]:
    """In order, as for an upgrade."""
    here.broker.stop()
    here.broker.start()
    yield


@contextmanager
def a_hangup(here: Field) -> Iterator[None]:
    """Read your settings again."""
    here.ingestor.signal(signal.SIGHUP)
    yield


NEIGHBOURS: tuple[Neighbour, ...] = (
    long_topics,
    strange_topics,
    strange_payloads,
    half_bad_arrays,
    wrong_clocks,
    other_qualities,
    a_trigger_on_quarantine,
    a_lock_on_quarantine,
    a_forgotten_transaction,
    a_trigger_against_one_device,
    odd_defaults,
    a_server_that_only_reads,
    ended_sessions,
    a_backend_that_stops,
    a_cut_network,
    a_silent_network,
    a_broker_restarted,
    a_hangup,
)
