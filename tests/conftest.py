"""A real PostgreSQL and a real broker for every test that asks; each test sees an empty one.

Everything listens on free ports of loopback and ends with the test session, however that ends.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any, TypeVar

import pytest
from hypothesis import HealthCheck, settings

from tests.backends import Broker, Database, Server, new_broker, new_database
from tests.citus import CITUS_URL, NOT_GIVEN, CitusCluster
from tests.databases import a_database, migrated_template
from tests.examples import examples
from tests.machine import missing
from tests.processes import WattlineProcess
from tests.proxy import TcpProxy

S = TypeVar("S", bound=Server)


# How long an example takes says what else the machine does; pytest-timeout ends what never ends.
settings.register_profile(
    "busy", max_examples=examples(100), deadline=None, suppress_health_check=[HealthCheck.too_slow]
)
settings.load_profile("busy")

# libpq and wattline's settings read the environment; the tests' own must be the only ones.
_NOT_OURS = ("PG", "DATABASE_", "MQTT_", "API_", "METRICS_")
for _name in [name for name in os.environ if name.startswith(_NOT_OURS)]:
    del os.environ[_name]


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """Where there is a cluster, a test that is marked `citus_too` runs twice: on one server and on many."""
    marks = {mark.name for mark in metafunc.definition.iter_markers()}
    if CITUS_URL and "citus_too" in marks and "one_server" not in marks and "postgres_server" in metafunc.fixturenames:
        metafunc.parametrize("postgres_server", [None, CITUS_URL], ids=["one", "citus"], indirect=True, scope="session")


@pytest.fixture(scope="session")
def postgres_server(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Database]:
    """The PostgreSQL that all tests share; kill or stop only one of `postgres_factory`."""
    if (url := getattr(request, "param", None)) is not None:
        yield CitusCluster(url)
        return
    with _running(new_database(tmp_path_factory.mktemp("postgres"))) as server:
        yield server


@pytest.fixture
def make_database(postgres_server: Database) -> Iterator[Callable[..., str]]:
    """`make_database(encoding="LATIN1")`: the URL of a fresh, empty database; gone after the test."""
    with ExitStack() as stack:

        def make(encoding: str | None = None) -> str:
            how = f"ENCODING {encoding} LOCALE 'C'" if encoding else ""
            return stack.enter_context(a_database(postgres_server, how=how))

        yield make


@pytest.fixture
def database_url(request: pytest.FixtureRequest, postgres_server: Database) -> Iterator[str]:
    """A fresh database; with the schema, without partitions, or as the mark `empty_database` says."""
    empty = request.node.get_closest_marker("empty_database") is not None
    with a_database(postgres_server, "template0" if empty else migrated_template(postgres_server)) as url:
        yield url


@pytest.fixture
def postgres_factory(tmp_path: Path) -> Iterator[Callable[[], Database]]:
    """Makes started PostgreSQL servers that a test may stop and kill; `url_of("energy_db")` needs no creating."""
    with ExitStack() as stack:
        numbers = iter(range(100))
        yield lambda: stack.enter_context(_running(new_database(tmp_path / f"postgres-{next(numbers)}")))


@pytest.fixture
def broker_factory(tmp_path: Path) -> Iterator[Callable[[], Broker]]:
    """Makes started brokers with the project's configuration on free ports."""
    with ExitStack() as stack:
        numbers = iter(range(100))
        yield lambda: stack.enter_context(_running(new_broker(tmp_path / f"broker-{next(numbers)}")))


@pytest.fixture
def broker(broker_factory: Callable[[], Broker]) -> Broker:
    """One started broker."""
    return broker_factory()


@pytest.fixture
def start_wattline(tmp_path: Path) -> Iterator[Callable[..., WattlineProcess]]:
    """`start_wattline("ingest", DATABASE_URL=..., MQTT_URL=...)`: a started command; killed after the test."""
    processes: list[WattlineProcess] = []

    def start(*arguments: str, **environment: Any) -> WattlineProcess:
        process = WattlineProcess(*arguments, folder=tmp_path, **environment)
        processes.append(process)
        process.start()
        return process

    yield start
    for process in processes:
        process.end()


@pytest.fixture
def proxy_factory() -> Iterator[Callable[[int], TcpProxy]]:
    """`proxy_factory(port)`: a proxy in front of that port, with which a test can lose the network."""
    with ExitStack() as stack:
        yield lambda target_port: stack.enter_context(TcpProxy(target_port))


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Where there is no cluster, its tests are left out, for one line at the end."""
    if CITUS_URL is None and (left_out := [item for item in items if item.get_closest_marker("needs_citus")]):
        items[:] = [item for item in items if item not in left_out]
        config.hook.pytest_deselected(items=left_out)


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """What was not tried; and a failing run says at its end what the machine lacks, in case that is why."""
    if CITUS_URL is None and not all("unit" in chosen for chosen in terminalreporter.config.args):
        terminalreporter.write_line(NOT_GIVEN)
    reports = terminalreporter.stats
    if not (reports.get("failed") or reports.get("error")):
        return
    for line in missing():
        terminalreporter.write_line(f"this machine lacks something: {line}", yellow=True)


@contextmanager
def _running(server: S) -> Iterator[S]:
    server.start()
    try:
        yield server
    finally:
        server.stop()
