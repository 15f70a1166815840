"""What does a small window of the broker cost? Some brokers send 10, 32 or 50 messages ahead of the acknowledgement.

No broker is like another in this, and some Mosquittos keep to no window, so a scripted one hands the messages out: it
has all of them ready, never more than the window under way, and sends the next the moment one is acknowledged.
"""

from __future__ import annotations

import argparse
import asyncio
import time
from collections import deque
from collections.abc import Sequence
from typing import cast

import mqtt5

from benchmarks.errors import BenchmarkError
from benchmarks.messages import Plan
from benchmarks.report import BLUE, Report, add_output, report_for, say
from benchmarks.servers import Servers, servers
from embedded.ports import LOOPBACK
from ingestor.broker_watch import WATCH
from mqtt.packet_ids import PACKET_IDS

SUMMARY = "rate through a broker's window of 10, 50, 1,000 messages"
TURN_SECONDS_MAX = 180.0
# Found out by then: three flush intervals, and a few windows.
WARM_UP = 20
SPAN_US = 1_500_000_000
FORMATS = {"window": ",", "messages": ",", "messages/s": ",.0f", "ms a window": ".2f"}
# The window of HiveMQ CE for a member of a share group, and what it has to carry.
WINDOW_OF_NOTE, RATE_OF_NOTE = 50, 5000


class WindowedBroker(asyncio.Protocol):
    """The broker's end of the ingestor's connection."""

    def __init__(self, packets: Sequence[bytes], window: int, finished: asyncio.Future[tuple[float, int]]) -> None:
        self._waiting = deque(packets)
        self._window = window
        self._finished = finished
        self._under_way = self._acknowledged = self._counted = 0
        self._began = 0.0
        self._rest = b""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)

    def data_received(self, data: bytes) -> None:
        view = memoryview(self._rest + data)
        at = 0
        while at < len(view):
            try:
                packet, size = mqtt5.read(view[at:])
            except IndexError:
                break
            at += size
            self._heard(packet)
        self._rest = bytes(view[at:])
        self._hand_out()

    def _heard(self, packet: mqtt5.Packet) -> None:
        match packet:
            case mqtt5.ConnectPacket() if WATCH in packet.client_id:
                self._transport.close()  # we tell nothing about ourselves
            case mqtt5.ConnectPacket():
                self._transport.write(mqtt5.ConnAckPacket().write())
            case mqtt5.SubscribePacket():
                granted = mqtt5.SubAckReasonCode.GRANTED_QOS_AT_LEAST_ONCE
                self._transport.write(mqtt5.SubAckPacket(packet.packet_id, [granted]).write())
                self._began = time.monotonic()
            case mqtt5.PingReqPacket():
                self._transport.write(mqtt5.PingRespPacket().write())
            case mqtt5.PubAckPacket():
                self._under_way -= 1
                self._acknowledged += 1
                if self._acknowledged == WARM_UP * self._window:
                    self._began, self._counted = time.monotonic(), self._acknowledged
                if not self._waiting and self._under_way == 0:
                    seconds = time.monotonic() - self._began
                    self._finished.set_result((seconds, self._acknowledged - self._counted))

    def _hand_out(self) -> None:
        room = min(self._window - self._under_way, len(self._waiting)) if self._began else 0
        if room:
            self._transport.write(b"".join([self._waiting.popleft() for _ in range(room)]))
            self._under_way += room


def configure(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--messages", type=int, default=30_000, help="messages a turn (default %(default)s)")
    parser.add_argument("--devices", type=int, default=1000, help="devices (default %(default)s)")
    parser.add_argument(
        "--windows", type=int, nargs="+", default=[10, 50, 1000], help="windows of the broker (default %(default)s)"
    )
    add_output(parser)


def run(args: argparse.Namespace) -> int:
    """Print the table; 0 when every message was stored, once."""
    report = report_for("window", args)
    expected = 0
    with servers() as both:
        rows = []
        for number, window in enumerate(args.windows):
            count = max(2 * WARM_UP * window, min(args.messages, 200 * window))
            expected += count
            say(f"window: {count:,} messages, {window:,} of them ahead of the acknowledgement")
            start_us = time.time_ns() // 1000 - (number + 1) * SPAN_US
            plan = Plan(count, args.devices, start_us, min(3000.0, SPAN_US / count))
            seconds, counted = asyncio.run(_turn(both, plan, window))
            rate = counted / seconds
            rows.append({"window": window, "messages": count, "messages/s": rate, "ms a window": 1000 * window / rate})
        stored = both.stored()
    report.table("each window", rows, FORMATS)
    print()
    for row in rows:
        if row["window"] == WINDOW_OF_NOTE:
            report.bar("messages/s through a window of 50", row["messages/s"], RATE_OF_NOTE, at_least=True)
    _draw(report, [float(row["messages/s"]) for row in rows], [f"{row['window']:,}" for row in rows])
    report.note(f"stored {stored:,} of {expected:,} readings, {stored - expected:+,d}")
    report.write()
    return 0 if stored == expected else 1


async def _turn(both: Servers, plan: Plan, window: int) -> tuple[float, int]:
    """Seconds, and messages acknowledged in them, after the window was found out."""
    loop = asyncio.get_running_loop()
    finished: asyncio.Future[tuple[float, int]] = loop.create_future()
    packets = [_packet(plan, index) for index in range(plan.count)]
    server = await loop.create_server(lambda: WindowedBroker(packets, window, finished), LOOPBACK, 0)
    port = server.sockets[0].getsockname()[1]
    ingestor = await asyncio.to_thread(both.ingestor, MQTT_URL=f"mqtt://{LOOPBACK}:{port}")
    try:
        async with asyncio.timeout(TURN_SECONDS_MAX):
            return await finished
    except TimeoutError:
        raise BenchmarkError(f"a window of {window} was not through within {TURN_SECONDS_MAX:.0f} s") from None
    finally:
        await asyncio.to_thread(both.stop, ingestor.child)
        server.close()


def _packet(plan: Plan, index: int) -> bytes:
    topic, payload = plan.message(index)
    return mqtt5.PublishPacket(topic, payload, qos=mqtt5.QoS.AT_LEAST_ONCE, packet_id=index % PACKET_IDS + 1).write()


def _draw(report: Report, rates: list[float], labels: list[str]) -> None:
    with report.picture(1) as (axes,):
        axes.bar(labels, rates, color=BLUE)
        axes.set_xlabel("window of the broker, messages")
        axes.set_ylabel("messages/s")
