"""A member of a share group that leaves for good: what waits in its session is stored, and nothing more gets there.

A broker may give every member its share of the messages, also one that is away (Mosquitto does). So the session of one
that never comes back keeps what it holds, and goes on filling. This says when a session is empty; it does no I/O.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable

import mqtt5

from config.errors import WattlineError
from config.settings import Settings
from ingestor.source import Channel, OnMessages
from ingestor.subscription import Remembered

QUIET_SECONDS = 5.0
"""A broker sends what it has as soon as there is room, so nothing for so long means that nothing is left."""


class LeavingError(WattlineError):
    """It must not leave, or has not left."""


def may_leave(settings: Settings, before: Remembered) -> None:
    """Raises LeavingError where there is nothing to leave, or where nobody would stay to store what devices publish."""
    if not before.filters:
        known = f"known are {', '.join(before.others)}" if before.others else "nobody is known"
        raise LeavingError(
            f"there is nothing to leave: the database {settings.database_label} knows of no ingestor "
            f"{settings.mqtt_client_id}; is MQTT_CLIENT_ID right? ({known})"
        )
    if not before.others:
        raise LeavingError(
            f"{settings.mqtt_client_id} is the only ingestor that the database {settings.database_label} knows of: "
            "without it nobody would store what devices publish; start another one before it leaves"
        )


class Leaving:
    """From the first connection to the last message."""

    def __init__(
        self, filters: Iterable[str], on_publish: OnMessages, monotonic: Callable[[], float] = time.monotonic
    ) -> None:
        """`filters` are what the session is subscribed to, as far as we know; `on_publish` takes its messages."""
        self._subscribed = set(filters)
        self._on_publish = on_publish
        self._monotonic = monotonic
        self._channel: object | None = None
        self._since = monotonic()

    async def unsubscribed(self, topic_filter: str) -> None:
        """The broker has confirmed it: nothing more gets into the session by this filter."""
        self._subscribed.discard(topic_filter)
        self._since = self._monotonic()

    def receive(self, channel: Channel, packets: list[mqtt5.PublishPacket]) -> None:
        """Hand on what has come."""
        self._since = self._monotonic()
        self._on_publish(channel, packets)

    def is_over(self, channel: object | None, in_hand: int) -> bool:
        """Whether nothing is left: `channel` is the present one, `in_hand` what is not stored and acknowledged yet."""
        now = self._monotonic()
        if channel is None or channel is not self._channel or in_hand:
            self._channel, self._since = channel, now
        return not self._subscribed and now - self._since >= QUIET_SECONDS
