"""How many messages the broker sends ahead of our acknowledgement, and whether more can come now: pure rules.

We ask for MAX_INFLIGHT; many brokers have a smaller window of their own (EMQX 32, HiveMQ 50 for a shared subscription)
and do not say so. A batch that waits for its interval behind a full window waits for nothing, so the window is learned:
what stands unacknowledged at the same number, several times, each time filled again right after an acknowledgement. One
message more than that, and it is forgotten. It must never hold a message back.
"""

from __future__ import annotations

from dataclasses import dataclass

# So often in a row the same number must have stood before it is taken for the broker's window: three waits.
STOOD_TIMES = 3
# Nothing came for this long, or for half of the flush interval: reading idles.
IDLE_SECONDS = 0.02
# A broker with messages waiting fills the window this soon after an acknowledgement, a far one too. Devices that
# report in step come later.
REFILL_SECONDS = 0.2
# A window that was filled so often, and never went beyond, is worth telling a person about.
SURE_TIMES = 20


@dataclass(slots=True)
class BrokerWindow:
    """The window of the present connection; seconds are monotonic."""

    asked: int
    """Our own limit, which the broker knows as Receive Maximum."""
    learned: int | None = None
    """The broker's, where it has shown one below ours."""
    under_way: int = 0
    """Messages received over the present connection and not acknowledged, those with QoS 0 aside."""
    _stood_at: int = 0
    _stood_times: int = 0
    _filled_times: int = 0
    _last_message: float = 0.0
    _last_acknowledgement: float = 0.0
    _refilled: bool = False

    @property
    def messages(self) -> int:
        """The window as far as it is known."""
        return self.asked if self.learned is None else self.learned

    @property
    def is_full(self) -> bool:
        """Whether nothing more can come before we acknowledge."""
        return self.under_way >= self.messages

    @property
    def is_exceeded(self) -> bool:
        """Whether the broker sends more than we asked for."""
        return self.under_way > self.asked

    @property
    def is_sure(self) -> bool:
        """Whether the learned window has proved itself, to be told to a person."""
        return self.learned is not None and self._filled_times >= SURE_TIMES

    def connected(self) -> None:
        """A new connection: the broker sends what was under way again."""
        self.under_way = 0
        self._refilled = False

    def received(self, messages: int, now: float) -> None:
        """So many messages with QoS 1 or 2 have come."""
        if messages == 0:
            return
        if self._last_acknowledgement >= self._last_message:
            self._refilled = now - self._last_acknowledgement <= REFILL_SECONDS
        self.under_way += messages
        self._last_message = now
        if self.learned is not None and self.under_way > self.learned:
            self.learned = None
            self._stood_times = self._filled_times = 0

    def acknowledged(self, messages: int, now: float) -> None:
        """So many of them have been acknowledged."""
        if messages == 0:
            return
        if self._refilled and self.is_full:
            self._filled_times += 1
        self.under_way = max(0, self.under_way - messages)
        self._last_acknowledgement = now

    def waited(self, interval_seconds: float, now: float) -> None:
        """A batch is due by its age, and nothing else is being written: what has come is all that is under way."""
        idle = now - self._last_message >= min(IDLE_SECONDS, interval_seconds / 2)
        if not idle or self.under_way == 0 or self.under_way > self.asked:
            self._stood_times = 0
            return
        if self.under_way != self._stood_at or not self._refilled:
            self._stood_at, self._stood_times = self.under_way, 0
        self._stood_times += 1
        if self._stood_times >= STOOD_TIMES and self._stood_at < self.asked:
            self.learned, self._filled_times = self._stood_at, 0
