"""What a session of ours sets right after connecting, because something of ours relies on it.

The owner of a server may set any default for a database or a role, and a pooler may hand on a session of somebody else.
So nothing is taken for granted that changes what a value means, what a statement does or how long it may take. Sent as
SET statements, one round trip, and never as `options`, which PgBouncer refuses.

Left to the owner: whatever only makes us quicker, slower or stricter (planner, memory, tablespaces, row security,
a database that is read-only by default because its disk is nearly full).
"""

from __future__ import annotations

from dataclasses import dataclass

# The tables are looked for in the schema that holds them: first of those that the user would see, then public, then any
# other. Where there are none yet, they will be where the user's new tables go, but never in a schema of the system.
# Then nothing else can stand before them: no temporary table, and no table of that name in another schema.
_SEARCH_PATH = """
SELECT pg_catalog.set_config('search_path', pg_catalog.quote_ident(coalesce(
    (SELECT n.nspname FROM pg_catalog.pg_namespace AS n
     WHERE EXISTS (SELECT FROM pg_catalog.pg_class WHERE relnamespace = n.oid AND relname = 'schema_migrations')
       AND EXISTS (SELECT FROM pg_catalog.pg_class WHERE relnamespace = n.oid AND relname = 'meter_readings_history')
     ORDER BY pg_catalog.array_position(pg_catalog.current_schemas(false), n.nspname), n.nspname <> 'public', n.nspname
     LIMIT 1),
    (SELECT s FROM pg_catalog.current_schema() AS s WHERE s NOT LIKE 'pg\\_%' AND s <> 'information_schema'),
    'public')) || ', pg_temp', false)"""

# A pooler that does not clean up hands on what its last client left: a role, statements under the names that ours get.
_AS_NEW = ("RESET ROLE", "DEALLOCATE ALL")

_SETTINGS = (
    # How values are written and read.
    "client_encoding TO 'UTF8'",
    "DateStyle TO 'ISO, YMD'",
    "IntervalStyle TO 'postgres'",
    "TimeZone TO 'UTC'",
    "extra_float_digits TO 1",  # the shortest text that is exactly the number
    "bytea_output TO 'hex'",
    "array_nulls TO on",  # off makes 'NULL' of a null: hours of any device would be those of a device of that name
    "standard_conforming_strings TO on",
    "quote_all_identifiers TO off",  # names of tables are compared as text
    "transform_null_equals TO off",
    # What a transaction is. The rules of the hourly sums are those of READ COMMITTED.
    "default_transaction_isolation TO 'read committed'",
    "default_transaction_deferrable TO off",
    "exit_on_error TO off",  # a refused reading is an error inside a savepoint
)
# A connection may rest for as long as we like, and a migration take its time; what must end in time says so by itself.
_UNLIMITED = ((14, "idle_session_timeout TO 0"), (17, "transaction_timeout TO 0"))

# An acknowledgement is a promise; a server that answers COMMIT before the disk does (here, or at the standbys that its
# owner made synchronous) would break it. Stronger is the owner's choice.
_DURABLE = """
SELECT pg_catalog.set_config('synchronous_commit', 'on', false)
WHERE pg_catalog.current_setting('synchronous_commit') <> 'remote_apply'"""

# What a transaction sets for itself, as how long to wait for a lock, holds on the workers of a Citus cluster too.
_ON_WORKERS_TOO = """
SELECT pg_catalog.set_config('citus.propagate_set_commands', 'local', false)
WHERE pg_catalog.to_regclass('pg_catalog.pg_dist_partition') IS NOT NULL"""

# Compared with what the connection was told at its start: they differ behind a pooler.
_BACKEND = """
SELECT pg_catalog.pg_backend_pid(), pg_catalog.to_regclass('pg_catalog.pg_dist_partition') IS NOT NULL"""


@dataclass(frozen=True)
class Limits:
    """How long the server lets a session of one job wait and work; 0 = without end."""

    statement_ms: int = 0
    lock_ms: int = 0
    # A process that stopped in the middle of a transaction must not hold up vacuum, retention and migrations for ever.
    idle_in_transaction_ms: int = 60_000


def opening(server_version: int, limits: Limits) -> bytes:
    """The statements that make a new session ours; the last one answers with its backend's pid, and
    whether Citus is there.

    `server_version` is libpq's, like 160004.
    """
    settings = [
        # First, because until then the owner's own limit runs.
        f"statement_timeout TO {limits.statement_ms}",
        f"lock_timeout TO {limits.lock_ms}",
        f"idle_in_transaction_session_timeout TO {limits.idle_in_transaction_ms}",
        *(setting for since, setting in _UNLIMITED if server_version >= since * 10_000),
        *_SETTINGS,
    ]
    statements = [
        *_AS_NEW,
        *(f"SET {setting}" for setting in settings),
        _SEARCH_PATH,
        _DURABLE,
        _ON_WORKERS_TOO,
        _BACKEND,
    ]
    return ";\n".join(statements).encode()
