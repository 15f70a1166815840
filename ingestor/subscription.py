"""Which topic filters our client id has at the broker: the new one, and old ones to unsubscribe.

The broker's session outlives us, so a filter of yesterday's MQTT_SHARE_GROUP would go on delivering. Only the database
remembers it.
"""

from __future__ import annotations

from psycopg import AsyncConnection
from psycopg.rows import TupleRow


async def remember_filter(connection: AsyncConnection[TupleRow], client_id: str, topic_filter: str) -> list[str]:
    """Write down the filter that is about to be subscribed; the result are those of earlier that are to go."""
    async with connection.transaction():
        await connection.execute(
            "INSERT INTO mqtt_subscriptions (client_id, filter) VALUES (%s, %s) ON CONFLICT DO NOTHING",
            (client_id, topic_filter),
        )
        old = await connection.execute(
            "SELECT filter FROM mqtt_subscriptions WHERE client_id = %s AND filter <> %s ORDER BY filter",
            (client_id, topic_filter),
        )
        return [str(row[0]) for row in await old.fetchall()]


async def forget_filters(connection: AsyncConnection[TupleRow], client_id: str, filters: list[str]) -> None:
    """These are unsubscribed."""
    async with connection.transaction():
        await connection.execute(
            "DELETE FROM mqtt_subscriptions WHERE client_id = %s AND filter = ANY(%s)", (client_id, filters)
        )
