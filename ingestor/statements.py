"""The SQL of a flush: one template a statement, rendered for each kind of reading (telemetry/kinds.py).

Columns come in the order of a row: id, timestamp, numbers. What a flush does to the status is in `newest_status`.
"""

from __future__ import annotations

from telemetry.kinds import SqlByKind

# New readings, all of them: fails on the first that is there already.
COPY = SqlByKind("COPY {history} ({id}, ts, {measures}) FROM STDIN (FORMAT binary)")

# New readings but those that are there already: the first one stored wins. The result are those that are new.
MERGE = SqlByKind("""
    INSERT INTO {history} ({id}, ts, {measures})
    SELECT * FROM unnest({arrays})
    ON CONFLICT ({id}, ts) DO NOTHING
    RETURNING {id}, ts""")

# What is stored of those that were not new, in their order; null where nothing is. A subquery of its own: each is one
# look into one index. All of them lie from `first` to `last`: without constants every partition would be locked.
STORED = SqlByKind("""
    SELECT (
        SELECT ARRAY[{as_floats}] FROM {history} AS stored
        WHERE stored.{id} = reading.id AND stored.ts = reading.ts AND stored.ts BETWEEN %(first)s AND %(last)s
    )
    FROM unnest(%(devices)b::text[], %(times)b::timestamptz[]) WITH ORDINALITY AS reading (id, ts, place)
    ORDER BY reading.place""")

# Whether the tables themselves are free, and not only some of their rows.
FREE_TABLES = SqlByKind("LOCK TABLE ONLY {history}, ONLY {status} IN ROW EXCLUSIVE MODE")

# Of some devices those whose status another transaction has changed and neither committed nor rolled back.
LOCKED = SqlByKind("""
    SELECT {id} FROM {status} WHERE {id} = ANY(%(devices)b::text[])
    EXCEPT
    SELECT {id} FROM (
        SELECT {id} FROM {status} WHERE {id} = ANY(%(devices)b::text[])
        ORDER BY {id} FOR NO KEY UPDATE SKIP LOCKED
    ) AS free""")
