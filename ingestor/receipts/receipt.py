"""A receipt on its way: made when a message that asks for one is decoded, filled in by COMMIT, then sent.

It knows its message's rows by identity: the same tuples that the flush sorts, halves and holds back. Pure rules; what
nobody asked for costs nothing here.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal

import mqtt5

from telemetry.readings import ReasonCode
from telemetry.receipts import REFUSED_LISTED_MAX, is_receipt_topic, receipt_payload

if TYPE_CHECKING:
    from ingestor.batch import Refusal, Row
    from ingestor.source import Channel

Fates = Mapping[int, "Refusal | None"]
"""By the `id` of a row what became of it other than being stored: what refused it; None: it was stored already."""


@dataclass(slots=True, eq=False)
class Receipt:
    """What became of one message's readings, as far as it is known."""

    topic: str
    correlation_data: bytes | None
    channel: Channel | None = None
    """Over which its message came, and it goes: where that has ended, the message is delivered again and told then."""
    rows: list[tuple[int, Row]] = field(default_factory=list)
    """(place in the message's array, row) of those whose fate is open."""
    refused: list[tuple[int, ReasonCode, str]] = field(default_factory=list)
    """(place, code, reason)."""
    omitted: int = 0
    """Refused, and not listed."""
    stored: int = 0
    repeated: int = 0
    conflict: int = 0
    _payload: bytes | None = None

    @property
    def is_empty(self) -> bool:
        """Whether nothing of its message has been noted yet."""
        return not (self.rows or self.refused or self.omitted)

    @property
    def is_full(self) -> bool:
        """Whether it lists no more refused readings, so that nobody needs their reasons."""
        return len(self.refused) >= REFUSED_LISTED_MAX

    @property
    def asked_bytes(self) -> int:
        """What the device chose of it, which stays in memory until it is sent."""
        return len(self.topic) + len(self.correlation_data or b"")

    @property
    def payload(self) -> bytes:
        """As it is sent, once it is complete."""
        if self._payload is None:
            listed = sorted(self.refused)
            self._payload = receipt_payload(self.stored, self.repeated, self.conflict, listed, self.omitted)
        return self._payload

    @property
    def size(self) -> int:
        """Bytes that it holds in memory, once it is complete."""
        return len(self.payload) + self.asked_bytes

    def refuse(self, place: int, code: ReasonCode, reason: str) -> None:
        """Note a refused reading, or message."""
        if self.is_full:
            self.omitted += 1
        else:
            self.refused.append((place, code, reason))

    def take_back(self, place: int, row: Row) -> None:
        """A reading that a clock refused is a row after all."""
        listed = [refused for refused in self.refused if refused[0] != place]
        self.omitted -= len(listed) == len(self.refused)
        self.refused = listed
        self.rows.append((place, row))

    def settle(self, fates: Fates, later: Collection[int]) -> bool:
        """After COMMIT: what became of its rows; those whose `id` is in `later` wait on. Whether it is complete."""
        waiting = []
        for place, row in self.rows:
            key = id(row)
            if key in later:
                waiting.append((place, row))
            elif key not in fates:
                self.stored += 1
            elif (refusal := fates[key]) is None:
                self.repeated += 1
            elif refusal.code == "conflict":
                self.conflict += 1
            else:
                self.refuse(place, refusal.code, refusal.reason)
        self.rows = waiting
        return not waiting

    def shorten(self) -> None:
        """Without its list, for a broker or device that takes only small messages."""
        self.omitted += len(self.refused)
        self.refused, self._payload = [], None


Outcome = Literal["sent", "unsubscribed", "refused", "too_large", "no_room", "lost", "withheld", "ignored"]
"""What became of a receipt, for the metric. `unsubscribed`: nobody listens on its topic. `lost`: the connection ended
before the broker had answered. `withheld`: none is sent at present, or over this channel. `ignored`: its topic is not
the device's own.
"""


def asked_for(packet: mqtt5.PublishPacket) -> Receipt | None:
    """The receipt of a message with a Response Topic; None where that is not the sending device's own to read."""
    topic = packet.response_topic
    device_id = packet.topic.rpartition("/")[2]
    if topic is None or not is_receipt_topic(topic, device_id):
        return None
    return Receipt(topic, packet.correlation_data)
