"""Which topic filters our client id has at the broker: the new one, and old ones to unsubscribe.

The broker's session outlives us, so a filter of yesterday's MQTT_SHARE_GROUP would go on delivering. Only the database
remembers it.
"""

from __future__ import annotations

from contextlib import suppress
from dataclasses import dataclass
from typing import LiteralString

import psycopg
from psycopg import AsyncConnection
from psycopg.rows import TupleRow

from config.settings import Settings
from mqtt.errors import LinkLost
from postgres.connecting import connect
from postgres.fitness import UnfitError
from postgres.words import explain
from telemetry.topics import subscription_filter

_REMEMBERED: LiteralString = "SELECT client_id, filter FROM mqtt_subscriptions ORDER BY client_id, filter"
_REMEMBER: LiteralString = "INSERT INTO mqtt_subscriptions (client_id, filter) VALUES (%s, %s) ON CONFLICT DO NOTHING"
_FORGET: LiteralString = "DELETE FROM mqtt_subscriptions WHERE client_id = %s AND filter = %s"


@dataclass(frozen=True)
class Remembered:
    """What is known of the client id from before."""

    filters: list[str]
    """Subscribed, or about to be when the process ended."""
    others: list[str]
    """The client ids that are remembered beside it; each takes, or shares in, everything that devices publish."""


async def remembered(connection: AsyncConnection[TupleRow], client_id: str) -> Remembered:
    """What was written down before."""
    rows = await (await connection.execute(_REMEMBERED)).fetchall()
    return Remembered(
        filters=[topic_filter for name, topic_filter in rows if name == client_id],
        others=sorted({name for name, _ in rows if name != client_id}),
    )


class Subscription:
    """The filter that is wanted, those to be left, and their memory in the database."""

    def __init__(self, settings: Settings, before: Remembered, *, leaving: bool = False) -> None:
        """`before` is what an earlier process has written down. `leaving`: no filter is wanted any more."""
        self._settings = settings
        self._topic_filter = subscription_filter(settings.mqtt_share_group)
        self.wanted = [] if leaving else [self._topic_filter]
        self.to_leave = sorted({*before.filters, self._topic_filter}.difference(self.wanted))
        """Filters that are to go, once the wanted one is granted."""
        self.had_session = bool(before.filters)
        """Whether the broker has a session of ours, unless it lost it."""
        self._is_known = leaving or self._topic_filter in before.filters

    async def remember(self) -> None:
        """Write the filter down before it is subscribed, so that no session keeps one that nobody knows of.

        Raises LinkLost where the database does not take it.
        """
        if self._is_known:
            return
        try:
            await self._execute(_REMEMBER, self._topic_filter)
        except psycopg.Error as error:
            label = self._settings.database_label
            problem = str(error) if isinstance(error, UnfitError) else explain(error, label)
            raise LinkLost(f"the subscription waits for the database, which is to remember it: {problem}") from None
        self._is_known = True

    async def forget(self, topic_filter: str) -> None:
        """Once an old filter is unsubscribed for sure, nobody needs to remember it."""
        with suppress(psycopg.Error):  # the next start does it again, which is harmless
            await self._execute(_FORGET, topic_filter)

    async def _execute(self, statement: LiteralString, topic_filter: str) -> None:
        settings = self._settings
        async with await connect(settings.database_conninfo, autocommit=True) as connection:
            await connection.execute(statement, [settings.mqtt_client_id, topic_filter])
