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

    filters: list[str]
    """Subscribed, or about to be when the process ended."""

    def to_leave(self, topic_filter: str) -> list[str]:
        """Those that are to go, once this one is granted."""
        return [each for each in self.filters if each != topic_filter]


async def remembered(connection: AsyncConnection[TupleRow], client_id: str) -> Remembered:
    """What was written down before."""
    rows = await connection.execute(
        "SELECT filter FROM mqtt_subscriptions WHERE client_id = %s ORDER BY filter", (client_id,)
    )
    return Remembered([str(row[0]) for row in await rows.fetchall()])


async def remember_filter(connection: AsyncConnection[TupleRow], client_id: str, topic_filter: str) -> None:
    """Write down the filter that is about to be subscribed."""
    async with connection.transaction():
        await connection.execute(
            "INSERT INTO mqtt_subscriptions (client_id, filter) VALUES (%s, %s) ON CONFLICT DO NOTHING",
            (client_id, topic_filter),
        )


async def forget_filters(connection: AsyncConnection[TupleRow], client_id: str, filters: list[str]) -> None:
    """These are unsubscribed."""
    async with connection.transaction():
        await connection.execute(
            "DELETE FROM mqtt_subscriptions WHERE client_id = %s AND filter = ANY(%s)", (client_id, filters)
        )
