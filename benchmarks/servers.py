"""A broker and a database for one benchmark, and the processes that work on them: a temporary folder holds all of it.

Whatever ends the benchmark, an error or Ctrl-C, nothing that was started here is left running. Children see none of the
settings of the person who runs it: neither the environment's nor a `.env`.
"""

from __future__ import annotations

import asyncio
import json
import os
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import psycopg

from benchmarks.errors import BenchmarkError
from config.settings import Settings
from embedded.books import Sample, read_sample
from embedded.mosquitto import MosquittoServer
from embedded.ports import LOOPBACK, free_ports
from embedded.postgres import PostgresServer
from ingestor.schema.migrate import migrate
from ingestor.schema.partitions import days_ahead, ensure_partitions
from postgres.connecting import connect
from processes.asking import fetch
from processes.child import Child, Program, last_lines

PROJECT = Path(__file__).parent.parent
LOOK_SECONDS = 0.02
READY_SECONDS = 60.0
STOP_SECONDS = 20.0


@dataclass(frozen=True)
class Ingestor:
    """A running `wattline ingest`."""

    child: Child
    metrics_port: int

    def books(self) -> Sample | None:
        """Its counters now; None while it does not answer."""
        metrics = fetch(self.metrics_port, "/metrics")
        return None if metrics is None else read_sample(metrics)


class Servers:
    """Both servers, running, and the children of this benchmark."""

    def __init__(self, folder: Path, postgres_settings: Mapping[str, str]) -> None:
        self.folder = folder
        self.broker = MosquittoServer(folder / "broker")
        self.database = PostgresServer(folder / "postgres", settings=postgres_settings)
        self._children: list[Child] = []

    def python(self, module: str, *arguments: str, **environment: str) -> Child:
        """Start `python -m MODULE ARGUMENTS` against these servers."""
        name = f"{len(self._children):03}-{module}"
        child = Child(
            Program(
                name=name,
                command=(sys.executable, "-m", module, *arguments),
                log=self.folder / f"{name}.log",
                environment={
                    **_without_settings(),
                    "PYTHONPATH": str(PROJECT),
                    "MQTT_URL": self.broker.url,
                    "DATABASE_URL": self.database.url,
                    "METRICS_PORT": "0",
                    "LOG_LEVEL": "WARNING",
                    **environment,
                },
                directory=self.folder,
            )
        )
        self._children.append(child)
        child.start()
        return child

    def result(self, child: Child, timeout_seconds: float) -> dict[str, Any]:
        """Wait for the line of JSON with which a child ends. Raises BenchmarkError when it does not come to that."""
        deadline = time.monotonic() + timeout_seconds
        while child.running:
            if time.monotonic() > deadline:
                child.kill()
                raise BenchmarkError(f"{child.program.name} did not finish within {timeout_seconds:.0f} s")
            time.sleep(LOOK_SECONDS)
        end = last_lines(child.program.log)
        if child.exit_status != 0:
            raise BenchmarkError(f"{child.program.name} ended with status {child.exit_status}:\n{end}")
        result: dict[str, Any] = json.loads(end.splitlines()[-1])
        return result

    def ingestor(self, *options: str, **environment: str) -> Ingestor:
        """Start `wattline ingest`, and wait until it is connected to both."""
        port = free_ports(1)[0]
        child = self.python(
            "wattline", "ingest", *options, METRICS_HOST=LOOPBACK, METRICS_PORT=str(port), **environment
        )
        wait_ready(child, port)
        return Ingestor(child, port)

    def stop(self, child: Child) -> None:
        child.stop(STOP_SECONDS)
        self._children.remove(child)

    def stored(self) -> int:
        """Readings in both histories."""
        with psycopg.connect(self.database.url) as connection:
            row = connection.execute(
                "SELECT (SELECT count(*) FROM meter_readings_history) + (SELECT count(*) FROM vehicle_readings_history)"
            ).fetchone()
        return 0 if row is None else int(row[0])

    def empty_tables(self) -> None:
        """Forget all readings; partitions stay."""
        with psycopg.connect(self.database.url) as connection:
            connection.execute(
                "TRUNCATE meter_readings_history, vehicle_readings_history, meter_status, vehicle_status,"
                " meter_hourly, vehicle_hourly, hourly_invalidations"
            )

    def end(self) -> None:
        """Nothing may be left: first who writes, then who is written to."""
        for child in self._children:
            child.kill()
        self.broker.stop()
        self.database.stop()


def wait_ready(child: Child, port: int) -> None:
    """Until the /readyz of a command answers 200. Raises BenchmarkError."""
    deadline = time.monotonic() + READY_SECONDS
    while fetch(port, "/readyz") is None:
        if not child.running or time.monotonic() > deadline:
            name = child.program.name
            raise BenchmarkError(f"{name} did not become ready:\n{last_lines(child.program.log)}")
        time.sleep(LOOK_SECONDS)


@contextmanager
def servers(**postgres_settings: str) -> Iterator[Servers]:
    """Both servers with an empty, migrated database."""
    with tempfile.TemporaryDirectory(prefix="wattline-bench-") as folder:
        # A database server that runs as another user must be able to reach its folder.
        Path(folder).chmod(0o755)
        both = Servers(Path(folder), postgres_settings)
        try:
            both.broker.launch()
            both.database.launch()
            both.broker.wait_ready()
            both.database.wait_ready()
            asyncio.run(prepare(both.database.url))
            yield both
        finally:
            both.end()


async def prepare(conninfo: str) -> None:
    """Schema and partitions, so that no turn pays for them."""
    connection = await connect(conninfo, autocommit=True)
    async with connection:
        await migrate(connection)
        await ensure_partitions(connection, days_ahead(datetime.now(UTC)))


def _without_settings() -> dict[str, str]:
    ours = {name.upper() for name in Settings.model_fields}
    return {name: value for name, value in os.environ.items() if name.upper() not in ours and not name.startswith("PG")}
