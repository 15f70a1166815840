"""The tables of readings spread over the workers of a Citus cluster, by device: `wattline migrate --distributed`.

A device's readings, status, sums and invalidations lie in one shard, so that on each worker they change together; what
is small stays on the coordinator. All of it is one transaction, and nothing is done where it is done already. It must
never leave a whole hour's invalidation without a place in some shard: that would cost sums a reading (docs/scaling.md).
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from typing import Any

from psycopg import AsyncConnection
from psycopg.rows import TupleRow

from ingestor.schema.cluster import check_cluster
from ingestor.schema.migrate import LOCK_TIMEOUT_MS, MigrationError
from postgres.locks import AdvisoryLock, lock_in_transaction
from telemetry.kinds import KINDS

logger = logging.getLogger(__name__)

SHARDS_DEFAULT = 32
SHARDS_MAX = 1024
# Flushes of that moment, the roller and whoever makes partitions end first, and wait while tables are moved.
_ALONE = (AdvisoryLock.MIGRATIONS, AdvisoryLock.ANNULMENTS, AdvisoryLock.HOURLY_SUMS, AdvisoryLock.PARTITIONS)

DISTRIBUTED: Mapping[str, str] = {
    **{table: kind.id_column for kind in KINDS for table in (kind.history, kind.status, kind.hourly)},
    "hourly_invalidations": "place",
}
"""Each table that is spread, and the column whose value says in which shard a row lies."""
# All others lie in the same shards as it.
LEADER = KINDS[0].history

_SPREAD = """
    SELECT relname::text FROM pg_catalog.pg_dist_partition JOIN pg_catalog.pg_class ON pg_class.oid = logicalrelid
    WHERE partmethod = 'h' AND logicalrelid = ANY (SELECT to_regclass(name) FROM unnest(%s::text[]) AS name)"""
_LEAD = "SELECT create_distributed_table(%s::regclass, %s, colocate_with => 'none', shard_count => %s)"
_FOLLOW = "SELECT create_distributed_table(%s::regclass, %s, colocate_with => %s)"
_SHARDS = "SELECT count(*) FROM pg_catalog.pg_dist_shard WHERE logicalrelid = %s::regclass"

# A text for each shard, which lies there; no device has such an id.
_PLACES = """
    SELECT array_agg(place) FROM (
        SELECT min(place) AS place
        FROM (SELECT '*' || number AS place FROM generate_series(1, %(texts)s) AS number) AS texts
        GROUP BY get_shard_id_for_distribution_column(%(leader)s::regclass, place)
    ) AS places"""
_TEXTS_A_SHARD = 100
_FORGET_PLACES = "DELETE FROM hourly_places WHERE place <> ALL (%s::text[])"
_WRITE_PLACES = "INSERT INTO hourly_places (place) SELECT unnest(%s::text[]) ON CONFLICT (place) DO NOTHING"
_PLACED = "SELECT array_agg(place ORDER BY place) FROM hourly_places"
# What flushes wrote down before: an hour in each of its places, a device in its own.
_EVERYWHERE = """
    INSERT INTO hourly_invalidations (kind, hour, place)
    SELECT kind, hour, hourly_places.place
    FROM (SELECT DISTINCT kind, hour FROM hourly_invalidations WHERE device_id IS NULL) AS invalid
    CROSS JOIN hourly_places"""
_BESIDE_THE_DEVICE = """
    INSERT INTO hourly_invalidations (kind, hour, device_id, place)
    SELECT DISTINCT kind, hour, device_id, device_id
    FROM hourly_invalidations WHERE place = '' AND device_id IS NOT NULL"""
_NOWHERE = "DELETE FROM hourly_invalidations WHERE place = ''"
# The rows that were moved are still in the coordinator's files, where nobody sees them any more.
_HAS_LEFTOVERS = "SELECT coalesce(sum(pg_relation_size(relid)), 0) > 0 FROM pg_partition_tree(%s::regclass)"
_DROP_LEFTOVERS = "SELECT truncate_local_data_after_distributing_table(%s::regclass)"


async def distribute(connection: AsyncConnection[TupleRow], shards: int | None) -> list[str]:
    """Spread what is not spread yet; the names of those tables. `shards` None: SHARDS_DEFAULT, or as it is.

    The connection must be in autocommit mode, the schema up to date. Raises MigrationError, with what to do about it,
    and psycopg.errors.LockNotAvailable where somebody holds a table for LOCK_TIMEOUT_MS.
    """
    await check_cluster(connection, shards or SHARDS_DEFAULT)
    async with connection.transaction():
        for lock in _ALONE:
            await lock_in_transaction(connection, lock, LOCK_TIMEOUT_MS)
        there = await spread_tables(connection)
        missing = [table for table in DISTRIBUTED if table not in there]
        for table in missing:
            if table == "hourly_invalidations":
                continue  # last, once its rows are at their places
            if table == LEADER:
                await connection.execute(_LEAD, [table, DISTRIBUTED[table], shards or SHARDS_DEFAULT])
            else:
                await connection.execute(_FOLLOW, [table, DISTRIBUTED[table], LEADER])
        await _place_invalidations(connection, spread="hourly_invalidations" in there)
    for table in DISTRIBUTED:
        if await _first(connection, _HAS_LEFTOVERS, table):
            await connection.execute(_DROP_LEFTOVERS, [table])
    if shards is not None and (now := await _first(connection, _SHARDS, LEADER)) != shards:
        logger.warning("the tables lie in %d shards, not in %d: what is spread already stays as it is", now, shards)
    return missing


async def spread_tables(connection: AsyncConnection[TupleRow]) -> set[str]:
    """Those of DISTRIBUTED that Citus keeps; the database has the extension."""
    cursor = await connection.execute(_SPREAD, [list(DISTRIBUTED)])
    return {name for (name,) in await cursor.fetchall()}


async def _place_invalidations(connection: AsyncConnection[TupleRow], *, spread: bool) -> None:
    """See to it that `hourly_places` names each shard, and that what is invalid already is so in each."""
    shards: int = await _first(connection, _SHARDS, LEADER)
    wanted = {"leader": LEADER, "texts": shards * _TEXTS_A_SHARD}
    row = await (await connection.execute(_PLACES, wanted)).fetchone()
    places = sorted(row[0]) if row else []
    if len(places) != shards:
        raise MigrationError(f"of {shards} shards only {len(places)} were found a place for; choose fewer (--shards)")
    if places == await _first(connection, _PLACED) and spread:
        return
    await connection.execute(_FORGET_PLACES, [places])
    await connection.execute(_WRITE_PLACES, [places])
    await connection.execute(_EVERYWHERE)
    await connection.execute(_BESIDE_THE_DEVICE)
    await connection.execute(_NOWHERE)
    if not spread:
        table = "hourly_invalidations"
        await connection.execute(_FOLLOW, [table, DISTRIBUTED[table], LEADER])


async def _first(connection: AsyncConnection[TupleRow], query: str, *parameters: object) -> Any:  # noqa: ANN401 - as PostgreSQL has it
    row = await (await connection.execute(query.encode(), parameters)).fetchone()
    return row[0] if row else None
