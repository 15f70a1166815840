"""Whether a Citus cluster is fit for the tables of readings: asked before they are spread, and each time again.

It only looks. What is wrong is one line, with the setting and the node.
"""

from __future__ import annotations

import json
from dataclasses import dataclass

import psycopg
from psycopg import AsyncConnection
from psycopg.rows import TupleRow

from ingestor.schema.migrate import MigrationError
from postgres.spread import has_citus
from telemetry.kinds import KINDS

# 744 hours and the running one: what a fleet's question may cover; three of them at a time (analytics_api).
DAYS_ASKED, FLEETS_AT_ONCE = 32, 3
# A day of a shard: its table, its primary key, its BRIN index.
RELATIONS_A_DAY = 3
DURABLE = ("on", "remote_apply", "remote_write")

_NODES = """
    SELECT count(*) FILTER (WHERE shouldhaveshards), citus_is_coordinator()
    FROM pg_catalog.pg_dist_node WHERE noderole = 'primary' AND isactive"""
_DAYS = "SELECT count(*) FROM pg_catalog.pg_inherits WHERE inhparent = to_regclass(%s)"
# What a session of ours has on each node, workers and coordinator.
_SETTINGS = """
    SELECT nodename || ':' || nodeport, success, result
    FROM run_command_on_all_nodes($node$
        SELECT json_object_agg(name, setting) FROM pg_catalog.pg_settings WHERE name IN (
            'max_locks_per_transaction', 'max_connections', 'max_prepared_transactions', 'synchronous_commit',
            'fsync', 'TimeZone')
    $node$) AS answer JOIN pg_catalog.pg_dist_node USING (nodeid)
    ORDER BY groupid"""


@dataclass(frozen=True)
class Node:
    """A server of the cluster, and what is set there."""

    address: str
    locks_per_transaction: int
    connections: int
    prepared_transactions: int
    synchronous_commit: str
    fsync: str
    time_zone: str

    @property
    def locks(self) -> int:
        """How many its lock table has room for."""
        return self.locks_per_transaction * (self.connections + self.prepared_transactions)


def locks_needed(shards_of_node: int, days: int) -> int:
    """How many locks a node must have room for: each shard's days of every kind, as many as there are or as three
    fleets of 31 days ask for at a time.
    """
    return shards_of_node * len(KINDS) * max(days, DAYS_ASKED * FLEETS_AT_ONCE) * RELATIONS_A_DAY


def trouble_with_node(node: Node, locks: int) -> str | None:
    """What has to be changed there, or None; `locks` are those needed."""
    if node.prepared_transactions < node.connections:
        return (
            f"max_prepared_transactions is {node.prepared_transactions}, and each commit that touches two nodes needs "
            f"one: set it to {node.connections}, which is max_connections, and restart"
        )
    if node.synchronous_commit not in DURABLE or node.fsync != "on":
        return "a commit there is not on the disk yet (fsync, synchronous_commit): readings would be lost by a crash"
    if node.time_zone not in ("UTC", "Etc/UTC"):
        return f"TimeZone is {node.time_zone} for our sessions: set it to UTC, for hours and days are those of UTC"
    if node.locks < locks:
        wanted = -(-locks // (node.connections + node.prepared_transactions))
        return (
            f"it has room for {node.locks:,} locks and may need {locks:,}: set max_locks_per_transaction to {wanted} "
            "and restart, or choose fewer shards (docs/scaling.md)"
        )
    return None


async def check_cluster(connection: AsyncConnection[TupleRow], shards: int) -> None:
    """Raises MigrationError where the tables cannot be spread, or would not be safe."""
    if not has_citus(connection):
        raise MigrationError(
            "this database has no extension citus, so nothing can be distributed; it takes CREATE EXTENSION citus here "
            "and on every worker, and citus_add_node for each (docs/scaling.md)"
        )
    workers, is_coordinator = await _row(connection, _NODES)
    if not is_coordinator:
        raise MigrationError("this is a worker of a Citus cluster; name its coordinator in DATABASE_URL")
    if not workers:
        raise MigrationError("the cluster has no worker; SELECT citus_add_node('HOST', PORT) adds one")
    days = max([(await _row(connection, _DAYS, kind.history))[0] for kind in KINDS])
    locks = locks_needed(-(-shards // workers), days)
    for node in await _nodes(connection):
        if (trouble := trouble_with_node(node, locks)) is not None:
            raise MigrationError(f"node {node.address} of the cluster is not fit: {trouble}")


async def _nodes(connection: AsyncConnection[TupleRow]) -> list[Node]:
    try:
        cursor = await connection.execute(_SETTINGS)
    except psycopg.errors.InsufficientPrivilege as error:
        raise MigrationError(f"this user may not look at the cluster's nodes: {error.diag.message_primary}") from error
    nodes = []
    for address, success, answer in await cursor.fetchall():
        if not success:
            raise MigrationError(f"node {address} of the cluster does not answer: {answer}")
        said = json.loads(answer)
        nodes.append(
            Node(
                address,
                int(said["max_locks_per_transaction"]),
                int(said["max_connections"]),
                int(said["max_prepared_transactions"]),
                said["synchronous_commit"],
                said["fsync"],
                said["TimeZone"],
            )
        )
    return nodes


async def _row(connection: AsyncConnection[TupleRow], query: str, *parameters: object) -> TupleRow:
    row = await (await connection.execute(query.encode(), parameters)).fetchone()
    if row is None:
        raise LookupError("a statement that always answers with a row did not")
    return row
