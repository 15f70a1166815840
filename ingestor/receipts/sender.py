"""Sends receipts over the channels that their messages came on: after COMMIT, best effort, bounded, and each counted.

A receipt never waits for anything but a free place in the broker's window, and nothing waits for a receipt. One that
does not reach its device costs a message more: the device sends again, which finds its reading repeated.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections import deque
from collections.abc import Callable, Sequence

import mqtt5

from config.seldom import Seldom
from ingestor.metrics import IngestMetrics
from ingestor.receipts.receipt import Receipt
from ingestor.source import Channel, Outlet
from mqtt.errors import LinkError, PublishRefused
from telemetry.receipts import RECEIPT_ROOT

logger = logging.getLogger(__name__)

# Sent and unanswered ones included. A flush of a full window makes 65,535 of some 100 bytes.
WAITING_MAX = 200_000
WAITING_BYTES_MAX = 64_000_000
# As one write, some 3 ms of work; the event loop hears broker and database in between.
PORTION = 1000
# Some brokers (EMQX, HiveMQ, by their settings) end the connection of who publishes where it may not. Readings must not
# suffer from that: after so many connections in a row that ended before any answer to a receipt, none is sent for a
# while.
STRIKES_MAX = 3
PAUSE_SECONDS = 600.0

_NOBODY = int(mqtt5.PubAckReasonCode.NO_MATCHING_SUBSCRIBERS)
_TOO_LARGE = int(mqtt5.DisconnectReasonCode.PACKET_TOO_LARGE)


class _Line:
    """The receipts of one channel."""

    def __init__(self, channel: Channel) -> None:
        self.channel = channel
        self.outlet: Outlet | None = None
        self.waiting: deque[Receipt] = deque()
        self.under_way = 0
        self.size = 0
        self.called = False
        """`_pump` is about to be called."""
        self.tried = self.answered = False


class ReceiptSender:
    """All methods belong to one event loop."""

    def __init__(self, metrics: IngestMetrics, monotonic: Callable[[], float] = time.monotonic) -> None:
        self._metrics = metrics
        self._monotonic = monotonic
        self._lines: dict[Channel, _Line] = {}
        self._receipts = self._bytes = 0
        self._strikes = 0
        self._paused_until = 0.0
        self._said = Seldom(clock=monotonic)
        self._all_sent = asyncio.Event()

    def send(self, receipts: Sequence[Receipt]) -> None:
        """Send what has just been committed, or as much as there is room for; the rest follows by itself."""
        lines: dict[Channel, _Line] = {}
        for receipt in receipts:
            if receipt.channel is not None and (line := self._line(receipt.channel)) is not None:
                self._add(line, receipt)
                lines[receipt.channel] = line
            else:
                self._metrics.receipt("withheld")
        for line in lines.values():
            self._pump(line)

    async def finish(self, seconds: float) -> None:
        """Wait until all are sent, at most so long; the channels must be free to read the broker's answers."""
        if not any(line.waiting for line in self._lines.values()):
            return
        for line in self._lines.values():
            line.channel.resume_reading()
        self._all_sent.clear()
        try:
            async with asyncio.timeout(seconds):
                await self._all_sent.wait()
        except TimeoutError:
            left = sum(len(line.waiting) for line in self._lines.values())
            logger.warning("stopping with %d receipts unsent: their devices send again", left)

    def _line(self, channel: Channel) -> _Line | None:
        """None where nothing can be sent at present."""
        line = self._lines.get(channel)
        if line is None:
            line = _Line(channel)
            line.outlet = channel.outlet(
                lambda accepted, refused: self._answered(line, accepted, refused), lambda why: self._closed(line, why)
            )
            if line.outlet is None:
                return None
            self._lines[channel] = line
        return None if self._monotonic() < self._paused_until else line

    def _add(self, line: _Line, receipt: Receipt) -> None:
        size = receipt.size
        if self._receipts >= WAITING_MAX or self._bytes + size > WAITING_BYTES_MAX:
            self._metrics.receipt("no_room")
            return
        line.waiting.append(receipt)
        line.size += size
        self._receipts += 1
        self._bytes += size

    def _pump(self, line: _Line) -> None:
        line.called = False
        outlet, waiting = line.outlet, line.waiting
        if outlet is None or not waiting:
            return
        room = min(outlet.room, PORTION, len(waiting))
        if room <= 0:
            return
        portion = [waiting.popleft() for _ in range(room)]
        line.under_way += room
        line.tried = True
        outlet.send(portion)
        self._go_on(line)
        self._look_whether_all_sent()

    def _go_on(self, line: _Line) -> None:
        if line.waiting and not line.called and line.outlet is not None and line.outlet.room > 0:
            line.called = True
            asyncio.get_running_loop().call_soon(self._pump, line)

    def _answered(self, line: _Line, accepted: list[Receipt], refused: list[tuple[Receipt, PublishRefused]]) -> None:
        self._metrics.receipt("sent", len(accepted))
        self._forget(line, len(accepted), sum(receipt.size for receipt in accepted))
        for receipt, why in refused:
            self._forget(line, 1, receipt.size)
            self._refused(line, receipt, why)
        line.under_way -= len(accepted) + len(refused)
        if accepted or any(why.code != _TOO_LARGE for _, why in refused):
            line.answered = True
            self._strikes = 0
        self._go_on(line)

    def _forget(self, line: _Line, receipts: int, size: int) -> None:
        line.size -= size
        self._bytes -= size
        self._receipts -= receipts

    def _refused(self, line: _Line, receipt: Receipt, why: PublishRefused) -> None:
        if why.code == _NOBODY:
            self._metrics.receipt("unsubscribed")
        elif why.code == _TOO_LARGE and receipt.refused:
            receipt.shorten()
            self._add(line, receipt)
        else:
            self._metrics.receipt("too_large" if why.code == _TOO_LARGE else "refused")
            if count := self._said.due("refused"):
                logger.warning(
                    "%d receipts did not reach their devices, one on %s: %s (the ingestor's account needs the right to "
                    "publish to %s/#)",
                    count,
                    receipt.topic,
                    why,
                    RECEIPT_ROOT,
                )

    def _closed(self, line: _Line, why: LinkError) -> None:
        self._lines.pop(line.channel, None)
        left = len(line.waiting) + line.under_way
        self._metrics.receipt("lost", left)
        self._forget(line, left, line.size)
        line.waiting.clear()
        self._look_whether_all_sent()
        if not line.tried or line.answered:
            return
        self._strikes += 1
        if self._strikes >= STRIKES_MAX:
            self._strikes = STRIKES_MAX - 1
            self._paused_until = self._monotonic() + PAUSE_SECONDS
            logger.error(
                "the broker ended %d connections in a row before it had answered a receipt (%s): for %d minutes none "
                "is sent, so that readings come in; allow the ingestor's account to publish to %s/#",
                STRIKES_MAX,
                why,
                PAUSE_SECONDS // 60,
                RECEIPT_ROOT,
            )

    def _look_whether_all_sent(self) -> None:
        if not any(line.waiting for line in self._lines.values()):
            self._all_sent.set()
