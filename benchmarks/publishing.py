"""Publishes a plan's messages as fast as the broker takes them, or each at its own moment: `python -m
benchmarks.publishing`, a process of its own, so that its work is not counted as anybody else's.

A socket, the codec and packets in large chunks: 3 µs a message, so that it is never what limits a benchmark. When paced
it is an open loop: a message's moment is its timestamp, planned before the start, and does not wait for the answers
to those before it. It ends when the broker has acknowledged everything, and never repeats a message.
"""

from __future__ import annotations

import argparse
import json
import os
import select
import socket
import time
from dataclasses import asdict, dataclass

import mqtt5

from benchmarks.messages import Plan
from benchmarks.servers import Servers
from config.settings import Settings, load_settings
from mqtt.link import Link, LinkOptions
from mqtt.packets import PacketReader
from processes.child import Child
from telemetry.topics import ALL_TELEMETRY

CHUNK = 500  # 80 KB: one write
WINDOW = 5_000  # unacknowledged, at most: the broker always has work, its answers never pile up
PACKET_IDS = 65_535
PACKET_BYTES_MAX = 65_536
READ_BYTES = 1 << 18
# Between two looks at the clock: finer than any latency that is reported, coarse enough to send 20 at 20,000 a second.
TICK_SECONDS = 0.001
SILENCE_SECONDS_MAX = 60.0
SESSION_SECONDS = 3600


@dataclass(frozen=True)
class Published:
    """What the broker said, and how well the plan was kept."""

    acknowledged: int
    refused: int
    seconds: float
    late_ms_max: float
    """How far behind its plan the publisher was at worst; part of every latency that is reported."""


class Publisher:
    """One connection and the messages of one plan."""

    def __init__(self, host: str, port: int, plan: Plan, *, paced: bool) -> None:
        self._plan = plan
        self._paced = paced
        self._reader = PacketReader(PACKET_BYTES_MAX)
        self._socket = socket.create_connection((host, port), timeout=SILENCE_SECONDS_MAX)
        self._socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._unsent = memoryview(b"")
        self._sent = self._answered = self._refused = 0
        self._late_us = 0.0

    def run(self) -> Published:
        """Publish all of it. Raises OSError when the broker goes away."""
        self._connect()
        self._socket.setblocking(False)
        started = heard = time.monotonic()
        while self._answered < self._plan.count:
            if not self._unsent:
                self._build()
            readable, writable, _ = select.select(
                [self._socket], [self._socket] if self._unsent else [], [], self._patience()
            )
            if writable:
                self._unsent = self._unsent[self._socket.send(self._unsent) :]
            if readable:
                self._hear()
                heard = time.monotonic()
            elif self._answered < self._sent and time.monotonic() - heard > SILENCE_SECONDS_MAX:
                raise TimeoutError(f"the broker has been silent for {SILENCE_SECONDS_MAX:.0f} s")
        seconds = time.monotonic() - started
        self._socket.setblocking(True)
        self._socket.sendall(mqtt5.DisconnectPacket().write())
        self._socket.close()
        return Published(self._answered - self._refused, self._refused, seconds, max(0.0, self._late_us) / 1000)

    def _connect(self) -> None:
        self._socket.sendall(mqtt5.ConnectPacket(f"bench-publisher-{os.getpid()}", keep_alive=0).write())
        _, others, problem = self._reader.feed(self._socket.recv(READ_BYTES))
        if problem or not isinstance(others[0], mqtt5.ConnAckPacket) or others[0].reason_code != 0:
            raise ConnectionError(f"the broker did not accept the publisher: {problem or others}")

    def _build(self) -> None:
        """The packets that are due and that the window has room for."""
        plan, first = self._plan, self._sent
        last = min(first + CHUNK, self._answered + WINDOW, plan.count)
        if self._paced:
            now_us = time.time_ns() / 1000
            last = min(last, int((now_us - plan.start_us) / plan.step_us) + 1)
            if last > first:
                self._late_us = max(self._late_us, now_us - plan.start_us - first * plan.step_us)
        if last <= first:
            return
        publish, once, message = mqtt5.PublishPacket, mqtt5.QoS.AT_LEAST_ONCE, plan.message
        packets = [
            publish(*message(index), qos=once, packet_id=index % PACKET_IDS + 1).write() for index in range(first, last)
        ]
        self._unsent = memoryview(b"".join(packets))
        self._sent = last

    def _patience(self) -> float:
        if not self._paced or self._sent == self._plan.count:
            return SILENCE_SECONDS_MAX
        next_us = self._plan.start_us + self._sent * self._plan.step_us
        return max(TICK_SECONDS, next_us / 1_000_000 - time.time()) if not self._unsent else SILENCE_SECONDS_MAX

    def _hear(self) -> None:
        data = self._socket.recv(READ_BYTES)
        if not data:
            raise ConnectionError("the broker closed the connection")
        _, others, problem = self._reader.feed(data)
        if problem:
            raise ConnectionError(f"the broker {problem}")
        for packet in others:
            if not isinstance(packet, mqtt5.PubAckPacket):
                raise ConnectionError(f"the broker sent an unexpected {type(packet).__name__}")
            # "No matching subscribers" is a success in MQTT, and a lost reading here.
            self._refused += packet.reason_code != mqtt5.PubAckReasonCode.SUCCESS
        self._answered += len(others)


def start_publishing(servers: Servers, plan: Plan, *, paced: bool = False) -> Child:
    """Start the process; `published` waits for it."""
    numbers = [str(value) for value in (plan.count, plan.devices, plan.start_us, plan.step_us, plan.days)]
    return servers.python("benchmarks.publishing", *numbers, "--paced" if paced else "--at-once")


def published(servers: Servers, child: Child, timeout_seconds: float) -> Published:
    return Published(**servers.result(child, timeout_seconds))


async def leave_session(settings: Settings, client_id: str) -> None:
    """Subscribe and go: from now on the broker queues for that client."""
    absent = LinkOptions.from_settings(
        settings, client_id=client_id, clean_start=False, session_expiry_seconds=SESSION_SECONDS
    )
    async with Link(absent, subscribe=[ALL_TELEMETRY]) as link:
        await link.wait_connected(10)


async def forget_session(settings: Settings, client_id: str) -> None:
    """From now on the broker queues nothing for that client: a member of a share group that is gone gets its share."""
    clean = LinkOptions.from_settings(settings, client_id=client_id, clean_start=True, session_expiry_seconds=0)
    async with Link(clean) as link:
        await link.wait_connected(10)


def main() -> None:
    """Publish the plan on the command line, and print what came of it."""
    parser = argparse.ArgumentParser()
    for name, kind in (("count", int), ("devices", int), ("start_us", int), ("step_us", float), ("days", int)):
        parser.add_argument(name, type=kind)
    pace = parser.add_mutually_exclusive_group(required=True)
    pace.add_argument("--paced", action="store_true")
    pace.add_argument("--at-once", dest="paced", action="store_false")
    args = parser.parse_args()
    plan = Plan(args.count, args.devices, args.start_us, args.step_us, args.days)
    broker = load_settings().broker
    print(json.dumps(asdict(Publisher(broker.host, broker.port, plan, paced=args.paced).run())))


if __name__ == "__main__":
    main()
