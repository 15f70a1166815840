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

# What is stored of those that were not new, each with its place among them (from 1). The GROUP BY keeps it one look
# into one index for each. All of them lie from `first` to `last`: without constants every partition would be locked.
STORED = SqlByKind("""
    SELECT reading.place, stored.numbers
    FROM unnest(%(devices)b::text[], %(times)b::timestamptz[]) WITH ORDINALITY AS reading (id, ts, place)
    CROSS JOIN LATERAL (
        SELECT ARRAY[{as_floats}] AS numbers FROM {history}
        WHERE {id} = reading.id AND ts = reading.ts AND ts BETWEEN %(first)s AND %(last)s
        GROUP BY {id}, ts, {measures}
    ) AS stored""")

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
