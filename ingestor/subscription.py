"""Which topic filters our client id has at the broker: the new one, and old ones to unsubscribe.

The broker's session outlives us, so a filter of yesterday's MQTT_SHARE_GROUP would go on delivering. Only the database
remembers it.
"""

from __future__ import annotations

from dataclasses import dataclass

from psycopg import AsyncConnection
from psycopg.rows import TupleRow


@dataclass(frozen=True)
class Remembered:
    """What is known of the client id from before."""

    old_filters: list[str]
    """Those that are to go, once the new one is granted."""
    seen_before: bool
    """Whether it has subscribed before: then the broker should have its session."""


async def remember_filter(connection: AsyncConnection[TupleRow], client_id: str, topic_filter: str) -> Remembered:
    """Write down the filter that is about to be subscribed; the result is what was written down before."""
    async with connection.transaction():
        known = await connection.execute("SELECT FROM mqtt_subscriptions WHERE client_id = %s LIMIT 1", (client_id,))
        seen_before = await known.fetchone() is not None
        await connection.execute(
            "INSERT INTO mqtt_subscriptions (client_id, filter) VALUES (%s, %s) ON CONFLICT DO NOTHING",
            (client_id, topic_filter),
        )
        old = await connection.execute(
            "SELECT filter FROM mqtt_subscriptions WHERE client_id = %s AND filter <> %s ORDER BY filter",
            (client_id, topic_filter),
        )
        return Remembered([str(row[0]) for row in await old.fetchall()], seen_before)


async def forget_filters(connection: AsyncConnection[TupleRow], client_id: str, filters: list[str]) -> None:
    """These are unsubscribed."""
    async with connection.transaction():
        await connection.execute(
            "DELETE FROM mqtt_subscriptions WHERE client_id = %s AND filter = ANY(%s)", (client_id, filters)
        )
