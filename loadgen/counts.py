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
    """PUBACK with success."""
    refused: Counter[str] = field(default_factory=Counter)
    """PUBACK with another reason code, by its text: nobody stores it."""
    published_again: int = 0
    """Sends that repeated a reading whose connection was lost before the PUBACK."""
    seconds: float = 0.0
    """How long the publishing took, its last acknowledgements included."""
    left_out: int = 0
    """Turns that came more than an interval late; their energy is in the device's next reading."""

    @property
    def unacknowledged(self) -> int:
        """Sent, and no answer yet: the broker may have them or not."""
        return self.published - self.acknowledged - self.refused.total()

    def report(self) -> list[str]:
        """The final report, a line a fact."""
        rate = self.acknowledged / self.seconds if self.seconds > 0 else 0.0
        summary = (
            f"published {self.published:,} readings in {self.seconds:,.1f} s: acknowledged {self.acknowledged:,} "
            f"({rate:,.0f}/s), refused {self.refused.total():,}, unacknowledged {self.unacknowledged:,}"
        )
        lines = [summary]
        if self.published_again:
            lines.append(f"published again after a lost connection: {self.published_again:,}")
        if self.left_out:
            lines.append(
                f"turns left out: {self.left_out:,} (held up for more than an interval: the broker was away, or broker "
                "or machine are too slow for this fleet)"
            )
        lines += [f"refused {count:,}: {reason}" for reason, count in self.refused.most_common()]
        return lines
