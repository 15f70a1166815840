"""How much does a durable message cost? Drain a queue with wattline, and with a consumer that only acknowledges.

The two take turns over the same broker, a queue of fresh readings each time, so that a noisy machine is as unkind to
one as to the other. Broker, database and consumer share the machine; CPU is counted for each.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

import psutil
import psycopg

from benchmarks.consumers import Measured
from config.event_loop import loop_factory
from config.settings import Settings, load_settings
from embedded.mosquitto import MosquittoServer
from embedded.postgres import PostgresServer
from telemetry.mqtt import Link, LinkOptions
from telemetry.topics import ALL_TELEMETRY, METER_PREFIX, VEHICLE_PREFIX

SUMMARY = "CPU a message and rate of draining a queue, beside a consumer that only acknowledges"
CONSUMERS = ("ack", "ack-uvloop", "ingest")
CLIENT_ID = "bench-drain"
PUBLISHERS = 4
PUBLISHES_UNDER_WAY = 500


@dataclass(frozen=True)
class Round:
    """One consumer's turn; CPU in µs a message."""

    consumer: str
    rate: float
    consumer_us: float
    broker_us: float
    database_us: float
    peak_mb: float


def configure(parser: argparse.ArgumentParser) -> None:
    """The options of `./dev bench drain`."""
    parser.add_argument("--messages", type=int, default=200_000, help="queued messages (default %(default)s)")
    parser.add_argument(
        "--devices", type=int, default=10_000, help="meters, and as many vehicles (default %(default)s)"
    )
    parser.add_argument("--rounds", type=int, default=3, help="turns of each consumer (default %(default)s)")


def run(args: argparse.Namespace) -> int:
    """Print the table and the ratios; 0 when every message was stored."""
    with tempfile.TemporaryDirectory(prefix="wattline-bench-") as folder:
        # A database server that runs as another user must be able to reach its folder.
        Path(folder).chmod(0o755)
        broker, database = MosquittoServer(Path(folder) / "broker"), PostgresServer(Path(folder) / "postgres")
        try:
            broker.start()
            database.start()
            rounds = list(_rounds(args, broker, database))
            stored = _stored(database.url)
        finally:
            broker.stop()
            database.stop()
    _report(rounds)
    expected = args.messages * args.rounds
    print(f"\nstored {stored} of {expected} readings, {stored - expected:+d}")
    return 0 if stored == expected else 1


def _rounds(args: argparse.Namespace, broker: MosquittoServer, database: PostgresServer) -> Iterator[Round]:
    settings = load_settings(mqtt_url=broker.url, database_url=database.url, mqtt_client_id=CLIENT_ID)
    start = datetime.now(UTC) - timedelta(hours=12)
    for number in range(args.rounds):
        for consumer in CONSUMERS:
            _say(f"round {number + 1} of {args.rounds}: queueing {args.messages} messages for {consumer}")
            with asyncio.Runner(loop_factory=loop_factory) as runner:
                runner.run(_queue(settings, args.messages, args.devices, start + timedelta(hours=number)))
            yield _turn(consumer, args.messages, broker, database)


async def _queue(settings: Settings, count: int, devices: int, start: datetime) -> None:
    """Leave a session behind, and `count` messages in it."""
    absent = LinkOptions.from_settings(settings, client_id=CLIENT_ID, clean_start=False, session_expiry_seconds=3600)
    async with Link(absent, subscribe=[ALL_TELEMETRY]) as link:
        await link.wait_connected(10)
    messages = _messages(count, devices, start)

    async with asyncio.TaskGroup() as group:
        for number in range(PUBLISHERS):
            group.create_task(_publish(settings, number, messages))


async def _publish(settings: Settings, number: int, messages: Iterator[tuple[str, bytes]]) -> None:
    """One connection's share of the messages: whoever is free takes the next."""

    async def work(link: Link) -> None:
        for topic, payload in messages:
            await link.publish(topic, payload)

    async with Link(LinkOptions.from_settings(settings, client_id=f"{CLIENT_ID}-{number}")) as link:
        await link.wait_connected(10)
        async with asyncio.TaskGroup() as group:
            for _ in range(PUBLISHES_UNDER_WAY // PUBLISHERS):
                group.create_task(work(link))


def _messages(count: int, devices: int, start: datetime) -> Iterator[tuple[str, bytes]]:
    for index in range(count):
        number = index // 2 % devices
        at = (start + timedelta(milliseconds=index)).isoformat(timespec="milliseconds").replace("+00:00", "Z")
        if index % 2:
            device = f"VEH-{number:05}"
            payload = (
                f'{{"vehicleId":"{device}","soc":{index % 100},"kwhDeliveredDc":0.1544,'
                f'"batteryTemp":31.5,"timestamp":"{at}"}}'
            )
            yield VEHICLE_PREFIX + device, payload.encode()
        else:
            device = f"METER-{number:05}"
            payload = f'{{"meterId":"{device}","kwhConsumedAc":0.1834,"voltage":238.4,"timestamp":"{at}"}}'
            yield METER_PREFIX + device, payload.encode()


def _turn(consumer: str, count: int, broker: MosquittoServer, database: PostgresServer) -> Round:
    environment = os.environ | {
        "MQTT_URL": broker.url,
        "MQTT_CLIENT_ID": CLIENT_ID,
        "DATABASE_URL": database.url,
        "METRICS_PORT": "0",
        "LOG_LEVEL": "WARNING",
    }
    broker_before, database_before = _cpu_seconds(broker.pid), _cpu_seconds(database.pid)
    done = subprocess.run(
        [sys.executable, "-m", "benchmarks.consumers", consumer, str(count)],
        env=environment,
        stdout=subprocess.PIPE,
        text=True,
        check=True,
    )
    measured = Measured(**json.loads(done.stdout))
    a_message = 1_000_000 / count
    return Round(
        consumer=consumer,
        rate=count / measured.seconds,
        consumer_us=measured.cpu_seconds * a_message,
        broker_us=(_cpu_seconds(broker.pid) - broker_before) * a_message,
        database_us=(_cpu_seconds(database.pid) - database_before) * a_message,
        peak_mb=measured.peak_mb,
    )


def _cpu_seconds(pid: int | None) -> float:
    """CPU of a process and its children, those that have ended included."""
    process = psutil.Process(pid)
    ended = process.cpu_times()
    own = ended.user + ended.system + ended.children_user + ended.children_system
    children = [child.cpu_times() for child in process.children(recursive=True)]
    return float(own + sum(child.user + child.system for child in children))


def _stored(url: str) -> int:
    with psycopg.connect(url) as connection:
        row = connection.execute(
            "SELECT (SELECT count(*) FROM meter_readings_history) + (SELECT count(*) FROM vehicle_readings_history)"
        ).fetchone()
    return 0 if row is None else int(row[0])


def _report(rounds: list[Round]) -> None:
    print(f"{'consumer':10} {'messages/s':>11} {'consumer':>10} {'broker':>8} {'database':>9} {'peak':>8}")
    for one in rounds:
        print(
            f"{one.consumer:10} {one.rate:11,.0f} {one.consumer_us:7.2f} µs {one.broker_us:5.2f} µs "
            f"{one.database_us:6.2f} µs {one.peak_mb:5.0f} MB"
        )
    medians = {
        (consumer, value): statistics.median(getattr(one, value) for one in rounds if one.consumer == consumer)
        for consumer in CONSUMERS
        for value in ("consumer_us", "rate")
    }
    cpu_ratio = medians["ingest", "consumer_us"] / medians["ack", "consumer_us"]
    rate_ratio = medians["ingest", "rate"] / medians["ack", "rate"]
    print(
        f"\nmedians: ingest {medians['ingest', 'consumer_us']:.2f} µs of CPU a message, "
        f"ack-only {medians['ack', 'consumer_us']:.2f} µs: ratio {cpu_ratio:.2f}"
        f"\n         ingest {medians['ingest', 'rate']:,.0f} messages/s, "
        f"ack-only {medians['ack', 'rate']:,.0f}: ratio {rate_ratio:.2f}"
    )


def _say(text: str) -> None:
    print(f"{time.strftime('%H:%M:%S')} {text}", file=sys.stderr)
