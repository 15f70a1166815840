"""Whether the kinds of readings that this program declares are those that the database has tables for.

A kind without its tables would be acknowledged and never stored; tables without their kind hold readings that nobody
writes, sums or drops any more. It only looks.
"""

from __future__ import annotations

from psycopg import AsyncConnection
from psycopg.rows import TupleRow

from ingestor.schema.migrate import MigrationError
from telemetry.kinds import KINDS, Kind

# The columns of those of the named tables that exist, as the search path finds them.
_COLUMNS = """
    SELECT named.name, array_agg(attname::text)
    FROM unnest(%s::text[]) AS named (name)
    JOIN pg_attribute ON attrelid = to_regclass(quote_ident(named.name)) AND attnum > 0 AND NOT attisdropped
    GROUP BY named.name"""

# Histories beside ours that no declared kind has.
_UNDECLARED = """
    SELECT relname::text FROM pg_class
    WHERE relkind = 'p' AND relname LIKE '%%\\_readings\\_history' AND relname <> ALL (%s)
        AND relnamespace = (SELECT relnamespace FROM pg_class WHERE oid = to_regclass('schema_migrations'))
    ORDER BY relname"""


async def check_kinds(connection: AsyncConnection[TupleRow]) -> list[str]:
    """The histories of kinds that are not declared. Raises MigrationError where a declared one lacks its tables."""
    missing = await _missing_columns(connection)
    if missing:
        raise MigrationError(
            f"the database has no {', '.join(missing)}, which a declared kind of reading needs; "
            "a migration has to make it (docs/recipes.md)"
        )
    cursor = await connection.execute(_UNDECLARED, [[kind.history for kind in KINDS]])
    return [name for (name,) in await cursor.fetchall()]


async def _missing_columns(connection: AsyncConnection[TupleRow]) -> list[str]:
    """What the declared kinds need and the database does not have: `inverter_status`, `meter_status.voltage`."""
    needed = {table: columns for kind in KINDS for table, columns in _needed(kind).items()}
    cursor = await connection.execute(_COLUMNS, [list(needed)])
    there: dict[str, list[str]] = dict(await cursor.fetchall())
    missing = []
    for table, columns in needed.items():
        if table not in there:
            missing.append(table)
        else:
            missing += [f"{table}.{column}" for column in columns if column not in there[table]]
    return missing


def _needed(kind: Kind) -> dict[str, list[str]]:
    measures = [measure.column for measure in kind.measures]
    return {
        kind.history: [kind.id_column, "ts", *measures, "ingested_at"],
        kind.status: [kind.id_column, *measures, "last_reading", "last_updated", "usual_interval_seconds"],
        kind.hourly: ["hour", kind.id_column, *(column for _, column in kind.summed), "readings"],
    }
