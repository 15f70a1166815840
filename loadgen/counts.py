"""What became of the readings so far, in numbers: the publishers write them, progress line and report read them."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field


@dataclass(slots=True)
class Counts:
    """Readings, each counted once however often it was sent; `published_again` and `left_out` count events."""

    published: int = 0
    """Sent at least once."""
    acknowledged: int = 0
    """PUBACK with success; where receipts are asked for, told as stored."""
    refused: Counter[str] = field(default_factory=Counter)
    """PUBACK with another reason code, or a receipt that says so, by its text: nobody stores it."""
    published_again: int = 0
    """Sends that repeated a reading whose connection was lost before its answer, or whose receipt did not come."""
    repeated: int = 0
    """Told by their receipts as stored before: an earlier receipt was lost."""
    late: int = 0
    """Of the readings made: with a timestamp of an hour before."""
    duplicates: int = 0
    """Messages beside the readings: the bytes of one a second time."""
    malformed: int = 0
    """Messages beside the readings: nothing that may be stored."""
    messages: int = 0
    """All PUBLISHes sent: readings, their repetitions, duplicates, malformed ones."""
    cpu_seconds: float = 0.0
    """What this process used of the processor while publishing."""
    seconds: float = 0.0
    """How long the publishing took, its last acknowledgements included."""
    left_out: int = 0
    """Turns that came more than an interval late; their energy is in the device's next reading."""

    not_sent: int = 0
    """Readings that were due and not sent when the time was over: no connection, or too high a rate."""

    @property
    def unacknowledged(self) -> int:
        """Sent, and no answer yet: the broker may have them or not."""
        return self.published - self.acknowledged - self.refused.total()

    @property
    def rate(self) -> float:
        """Readings acknowledged a second."""
        return self.acknowledged / self.seconds if self.seconds > 0 else 0.0

    @property
    def cpu_microseconds(self) -> float:
        """Own CPU a message."""
        return self.cpu_seconds * 1e6 / self.messages if self.messages else 0.0

    @property
    def core_percent(self) -> float:
        """Own share of one core."""
        return self.cpu_seconds * 100 / self.seconds if self.seconds > 0 else 0.0

    def report(self) -> list[str]:
        """The final report, a line a fact."""
        summary = (
            f"published {self.published:,} readings in {self.seconds:,.1f} s: acknowledged {self.acknowledged:,} "
            f"({self.rate:,.0f}/s), refused {self.refused.total():,}, unacknowledged {self.unacknowledged:,}"
        )
        lines = [summary]
        if self.published_again:
            lines.append(f"published again after a lost connection: {self.published_again:,}")
        if self.repeated:
            lines.append(f"told as stored before, by a receipt that came later: {self.repeated:,}")
        if self.left_out:
            lines.append(
                f"turns left out: {self.left_out:,} (held up for more than an interval: the broker was away, or broker "
                "or machine are too slow for this fleet)"
            )
        if self.not_sent:
            lines.append(
                f"not sent: {self.not_sent:,} readings that were due when the time was over (the broker was away, or "
                "broker or machine are too slow for this rate)"
            )
        if self.late or self.duplicates or self.malformed:
            lines.append(
                f"with faults: {self.late:,} of the readings late; beside them {self.duplicates:,} duplicates and "
                f"{self.malformed:,} malformed messages"
            )
        lines += [f"refused {count:,}: {reason}" for reason, count in self.refused.most_common()]
        return lines
