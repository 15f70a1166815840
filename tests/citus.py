"""The Citus cluster that CITUS_URL names: each test gets a database of its own on all of its nodes.

CITUS_URL is the coordinator's, of a superuser and of a database in which the cluster is set up (docs/scaling.md).
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import psycopg
import pytest
from psycopg.conninfo import conninfo_to_dict

CITUS_URL = os.environ.get("CITUS_URL")
NOT_GIVEN = "Citus: not tried, CITUS_URL is not set (docs/scaling.md says how to have a cluster)"
needs_citus = pytest.mark.needs_citus
# Few, so that a test is quick; more than workers, so that each has some.
SHARDS = 4


@dataclass(frozen=True)
class Node:
    """A server of the cluster, as its coordinator reaches it."""

    host: str
    port: int


class CitusCluster:
    """The coordinator in the place of a PostgreSQL of our own. It is somebody else's: nobody stops or kills it."""

    def __init__(self, url: str) -> None:
        self._url = url
        with psycopg.connect(url) as connection:
            self.coordinator = Node(connection.info.host, connection.info.port)
            rows = connection.execute(
                "SELECT nodename, nodeport FROM pg_dist_node WHERE groupid > 0 AND noderole = 'primary'"
            ).fetchall()
        self.workers = [Node(*row) for row in rows]
        self.port = self.coordinator.port

    def start(self) -> None:
        """It runs."""

    def stop(self) -> None:
        """It goes on."""

    def kill(self) -> None:
        raise AssertionError("the cluster of CITUS_URL is not ours to kill")

    def url_of(self, database: str) -> str:
        return self._on(self.coordinator, database)

    @contextmanager
    def database(self, name: str, how: str = "", *, spread: bool = True) -> Iterator[str]:
        """The URL of a fresh database on every node, set up as a cluster; gone afterwards. Without `spread` it is one
        on the coordinator's server, and knows nothing of Citus.
        """
        nodes = (self.coordinator, *self.workers) if spread else (self.coordinator,)
        try:
            for node in nodes:
                with psycopg.connect(self._on(node, "postgres"), autocommit=True) as connection:
                    connection.execute(f"CREATE DATABASE {name} TEMPLATE template0 {how}".encode())
            if spread:
                self._set_up(name)
            yield self.url_of(name)
        finally:
            for node in nodes:
                with psycopg.connect(self._on(node, "postgres"), autocommit=True) as connection:
                    connection.execute(f"DROP DATABASE IF EXISTS {name} WITH (FORCE)".encode())

    def _set_up(self, name: str) -> None:
        for node in (self.coordinator, *self.workers):
            with psycopg.connect(self._on(node, name), autocommit=True) as connection:
                connection.execute("CREATE EXTENSION citus")
        with psycopg.connect(self.url_of(name), autocommit=True) as connection:
            here = self.coordinator
            connection.execute("SELECT citus_set_coordinator_host(%s, %s)", [here.host, here.port])
            for node in self.workers:
                connection.execute("SELECT citus_add_node(%s, %s)", [node.host, node.port])

    def _on(self, node: Node, database: str) -> str:
        # As a URL: tests add to it what they like.
        said = {key: str(value) for key, value in conninfo_to_dict(self._url).items()}
        user, password = said.get("user", "postgres"), said.get("password", "")
        return f"postgresql://{user}:{password}@{node.host}:{node.port}/{database}?sslmode=prefer"


def worker_url(cluster: CitusCluster, number: int, database: str) -> str:
    """To look at a worker itself."""
    return cluster._on(cluster.workers[number], database)
