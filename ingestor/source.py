"""Where messages come from, as the ingestor sees it: `mqtt.link.Link` is one, and a test or a benchmark may be another.

A source hands over portions of messages as they arrive, each with the channel that they came on. The channel's
`acknowledge` travels with their packet ids to the batch, so the one who sends the acknowledgement needs no connection.
What takes receipts back to devices is the channel's `outlet`, where it has one.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Protocol

import mqtt5

from mqtt.errors import LinkError, PublishRefused

if TYPE_CHECKING:
    from ingestor.receipts.receipt import Receipt

Acknowledge = Callable[[Sequence[int]], bool]
"""Acknowledge messages by their packet ids, in the order of receiving. False when their channel has ended: they are
delivered again."""


OnAnswers = Callable[[list["Receipt"], list[tuple["Receipt", PublishRefused]]], None]
"""Which receipts the broker has, and which it refused and why; those that were never sent as well."""


class Outlet(Protocol):
    """Takes receipts to the broker, over one channel. It never waits and never sends again."""

    @property
    def room(self) -> int:
        """How many may be sent now; 0 once its channel has ended."""

    def send(self, receipts: Sequence[Receipt], /) -> None:
        """Send at most `room`, in this order."""


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

    def outlet(self, on_answers: OnAnswers, on_closed: Callable[[LinkError], None], /) -> Outlet | None:
        """The channel's outlet, asked for once; `on_closed` is called with the reason when the channel has ended. None
        where it only receives: then no device hears of its readings.
        """


OnMessages = Callable[[Channel, list[mqtt5.PublishPacket]], None]
"""Takes a portion of messages as they arrive; it must be quick, and raise nothing."""


class Source(Protocol):
    """Keeps a channel up until it is cancelled."""

    @property
    def connection(self) -> Channel | None:
        """The present channel; None between two."""

    async def run(self) -> None:
        """Raises LinkRefused when only a person can help."""
