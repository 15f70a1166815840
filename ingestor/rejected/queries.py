"""The SQL of quarantine."""

from __future__ import annotations

from typing import LiteralString

# How long to wait for a lock and for a statement, until the end of the transaction; the result is how long it was.
PATIENCE: LiteralString = """
    SELECT current_setting('lock_timeout'), current_setting('statement_timeout'),
        set_config('lock_timeout', %s, true), set_config('statement_timeout', %s, true)
"""

# Refusals.
INSERT: LiteralString = """
    INSERT INTO rejected_messages
        (received_at, topic, payload, reason_code, reason, topic_bytes, payload_bytes, sha256)
    SELECT * FROM unnest(
        %b::timestamptz[], %b::text[], %b::bytea[], %b::text[], %b::text[], %b::int[], %b::int[], %b::bytea[]
    )
"""

# The places (from 1) of those that are there already. Our own first attempt wrote the same moment down. What the broker
# delivers again has another; a row that was replayed does not count, because this may be what became of it.
ALREADY_THERE: LiteralString = """
    SELECT refused.place
    FROM unnest(%b::bytea[], %b::text[], %b::timestamptz[], %b::bool[]) WITH ORDINALITY
        AS refused (sha256, reason_code, received_at, again, place)
    WHERE EXISTS (
        SELECT FROM rejected_messages AS kept
        WHERE kept.sha256 = refused.sha256
            AND kept.reason_code = refused.reason_code
            AND (
                kept.received_at = refused.received_at
                OR refused.again
                    AND kept.replayed_at IS NULL
                    AND kept.received_at > refused.received_at - interval '1 day'
            )
    )
"""

_SIZE: LiteralString = "octet_length(payload) + octet_length(topic) + octet_length(reason) + 200"
_NONSENSE: LiteralString = "reason_code NOT IN ('clock_skew', 'too_old', 'database_refused', 'conflict')"
_DELETE_OLDEST: LiteralString = """
    WITH oldest AS (
        SELECT id, {size} AS size FROM rejected_messages WHERE {which} ORDER BY id LIMIT 10000
    ), enough AS (
        SELECT id, sum(size) OVER (ORDER BY id) - size AS before FROM oldest
    ), deleted AS (
        DELETE FROM rejected_messages WHERE id IN (SELECT id FROM enough WHERE before < %s)
        RETURNING {size} AS size
    )
    SELECT count(*)::int, coalesce(sum(size), 0)::bigint FROM deleted
"""
# The oldest, so that so many bytes and more are free: what is no reading at all goes first, then whatever there is.
DELETE_OLDEST: tuple[LiteralString, LiteralString] = (
    _DELETE_OLDEST.format(size=_SIZE, which=_NONSENSE),
    _DELETE_OLDEST.format(size=_SIZE, which="true"),
)

# Bytes of the whole quarantine: lengths are known without reading the payloads.
MEASURE: LiteralString = f"SELECT coalesce(sum({_SIZE}), 0)::bigint FROM rejected_messages"  # noqa: S608 - a constant
VACUUM: LiteralString = "VACUUM rejected_messages"
