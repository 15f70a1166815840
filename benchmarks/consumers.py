"""The consumers that `drain` compares, each a process of its own that measures itself: `python -m benchmarks.consumers
NAME COUNT`.

`ack` is the broker's own limit: the plain codec loop of the design, MQTT 5 on an asyncio Protocol, which reads each
PUBLISH and acknowledges it, and does nothing else. It stays as it is when wattline's link gets faster; `ack-uvloop` is
the same on the faster event loop, for what that alone is worth. `ingest` is wattline's ingestor, `paho` the same with
paho-mqtt as its client, `row-at-a-time` writes as most ingestors do. All start to count after their imports, right
before they connect, and stop when the broker has taken the last acknowledgement; the result is a line of JSON.
"""

from __future__ import annotations

import asyncio
import json
import resource
import sys
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Literal, cast, get_args

import mqtt5

from config.event_loop import loop_factory
from config.settings import Settings, load_settings
from ingestor.service import Ingestor
from ingestor.source import Source
from mqtt.link import Connection, Link

Consumer = Literal["ack", "ack-uvloop", "ingest", "paho", "row-at-a-time"]
CONSUMERS: tuple[Consumer, ...] = get_args(Consumer)
ACKNOWLEDGE_EVERY = 1000
LOOK_SECONDS = 0.02


@dataclass(frozen=True)
class Measured:
    """What a consumer needed for all messages."""

    seconds: float
    cpu_seconds: float
    peak_mb: float


class AckOnly(asyncio.Protocol):
    """Acknowledges and forgets."""

    def __init__(self, client_id: str, window: int, count: int) -> None:
        self._client_id = client_id
        self._window = window
        self._left = count
        self._rest = b""
        self._to_acknowledge: list[bytes] = []
        self.finished = asyncio.get_running_loop().create_future()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)
        self._transport.write(
            mqtt5.ConnectPacket(
                self._client_id, clean_start=False, session_expiry_interval=3600, receive_max=self._window
            ).write()
        )

    def data_received(self, data: bytes) -> None:
        data = self._rest + data if self._rest else data
        view = memoryview(data)
        at = 0
        while at < len(view):
            try:
                packet, size = mqtt5.read(view[at:])
            except IndexError:
                break
            at += size
            if isinstance(packet, mqtt5.PublishPacket) and packet.packet_id is not None:
                self._to_acknowledge.append(mqtt5.PubAckPacket(packet.packet_id).write())
                self._left -= 1
                if len(self._to_acknowledge) >= ACKNOWLEDGE_EVERY or self._left == 0:
                    self._transport.write(b"".join(self._to_acknowledge))
                    self._to_acknowledge.clear()
                if self._left == 0:
                    # The broker answers in order, so its PINGRESP says that it has taken every acknowledgement.
                    self._transport.write(mqtt5.PingReqPacket().write())
            elif isinstance(packet, mqtt5.PingRespPacket):
                self.finished.set_result(None)
        self._rest = data[at:]


async def acknowledge(settings: Settings, count: int) -> Measured:
    """Drain with the plain loop."""
    loop = asyncio.get_running_loop()
    before, started = time.process_time(), time.monotonic()
    transport, protocol = await loop.create_connection(
        lambda: AckOnly(settings.mqtt_client_id, settings.max_inflight, count),
        settings.broker.host,
        settings.broker.port,
    )
    await protocol.finished
    measured = _measured(before, started)
    transport.close()
    return measured


async def ingest(settings: Settings, count: int, source: Callable[..., Source] = Link) -> Measured:
    """Drain with wattline's ingestor, all of it."""
    ingestor = Ingestor(settings, source=source)
    before, started = time.process_time(), time.monotonic()
    running = asyncio.create_task(ingestor.run())
    while ingestor.metrics.readings_committed() < count:
        if running.done():
            raise SystemExit("the ingestor ended before it was finished; its log says why")
        await asyncio.sleep(LOOK_SECONDS)
    connection = cast("Connection | None", ingestor.source and ingestor.source.connection)
    if connection is not None:
        # The broker answers in order, so its UNSUBACK says that it has taken every acknowledgement.
        await connection.unsubscribe("nothing/of/ours")
    measured = _measured(before, started)
    ingestor.stop()
    await running
    return measured


async def ingest_with_paho(settings: Settings, count: int) -> Measured:
    """The ingestor with another MQTT client."""
    from benchmarks.paho_link import PahoLink  # noqa: PLC0415 - the others' memory is not to hold paho

    return await ingest(settings, count, PahoLink)


async def row_at_a_time(settings: Settings, count: int) -> Measured:
    """Drain as most ingestors write."""
    from benchmarks.row_at_a_time import ingest_row_at_a_time  # noqa: PLC0415 - as above

    before, started = time.process_time(), time.monotonic()
    await ingest_row_at_a_time(settings, count)
    return _measured(before, started)


RUNS = {
    "ack": acknowledge,
    "ack-uvloop": acknowledge,
    "ingest": ingest,
    "paho": ingest_with_paho,
    "row-at-a-time": row_at_a_time,
}


def _measured(cpu_before: float, started: float) -> Measured:
    return Measured(
        seconds=time.monotonic() - started,
        cpu_seconds=time.process_time() - cpu_before,
        peak_mb=_peak_kb() / 1024,
    )


def _peak_kb() -> int:
    """Not ru_maxrss where it can be helped: on Linux that begins with the size of the process that started us."""
    status = Path("/proc/self/status")
    if status.exists():
        return next(int(line.split()[1]) for line in status.read_text().splitlines() if line.startswith("VmHWM"))
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss


def main() -> None:
    settings = load_settings()
    with asyncio.Runner(loop_factory=asyncio.new_event_loop if sys.argv[1] == "ack" else loop_factory) as runner:
        print(json.dumps(asdict(runner.run(RUNS[sys.argv[1]](settings, int(sys.argv[2]))))))


if __name__ == "__main__":
    main()
