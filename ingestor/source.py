"""Where messages come from, as the ingestor sees it: `mqtt.link.Link` is one, and a test or a benchmark may be another.

A source hands over portions of messages as they arrive, each with the channel that they came on. The channel's
`acknowledge` travels with their packet ids to the batch, so the one who sends the acknowledgement needs no connection.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Protocol

import mqtt5

Acknowledge = Callable[[Sequence[int]], bool]
"""Acknowledge messages by their packet ids, in the order of receiving. False when their channel has ended: they are
delivered again."""


class Channel(Protocol):
    """One connection of a source, for as long as it lasts."""

    def acknowledge(self, packet_ids: Sequence[int], /) -> bool:
        """See `Acknowledge`."""

    def pause_reading(self) -> None:
        """Hand over nothing more until `resume_reading`; what has been handed over may still be acknowledged."""

    def resume_reading(self) -> None:
        """Go on."""

    def deliver_again(self, why: str, /) -> None:
        """End it, so that everything that is not acknowledged comes once more over the next."""


OnMessages = Callable[[Channel, list[mqtt5.PublishPacket]], None]
"""Takes a portion of messages as they arrive; it must be quick, and raise nothing."""


class Source(Protocol):
    """Keeps a channel up until it is cancelled."""

    @property
    def connection(self) -> Channel | None:
        """The present channel; None between two."""

    async def run(self) -> None:
        """Raises LinkRefused when only a person can help."""
