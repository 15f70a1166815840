"""Keeps every lane connected: a ramp of new connections at the start, connecting those again that are cut off later.

A bounded number of attempts at a time, whatever the number of lanes, and no task per connection. It sends nothing; a
lane that is connected again does that by itself.
"""

from __future__ import annotations

import asyncio
import logging
import secrets
import time
from collections.abc import Sequence
from typing import Final

from pydantic import SecretStr

from config.backoff import backoff_seconds
from config.settings import Settings
from loadgen.asking import AskingOutlet
from loadgen.messages import Message
from loadgen.mqtt311 import Connection311
from loadgen.publisher import Lane, Outlet
from mqtt.connection import Connection
from mqtt.errors import LinkError, LinkLost, LinkRefused
from mqtt.options import LinkOptions
from mqtt.outbox import Outbox

logger = logging.getLogger(__name__)

# Attempts at a time: Mosquitto accepts a connection in 0.1 ms, and its listen queue holds 100.
CONNECTING_MAX: Final = 64
RETRY_SECONDS_MIN: Final = 0.05
RETRY_SECONDS_MAX: Final = 2.0
# Pings are work too: thousands of connections send them seldom.
FEW_CONNECTIONS: Final = 100
KEEPALIVE_SECONDS_FEW: Final = 30
KEEPALIVE_SECONDS_MANY: Final = 300
DISCONNECTING_MAX: Final = 500
POLL_SECONDS: Final = 0.05
TELL_SECONDS: Final = 5.0


class Dialler:
    """The connections of all lanes."""

    def __init__(  # noqa: PLR0913 - how all of them connect
        self,
        lanes: Sequence[Lane],
        settings: Settings,
        under_way_max: int,
        *,
        mqtt_version: str,
        qos: int,
        receipt_seconds: float | None = None,
    ) -> None:
        """`receipt_seconds`: ask for receipts, and wait so long for one. Raises SettingsError when a certificate file
        cannot be used.
        """
        self.lanes = lanes
        self._under_way_max = under_way_max
        self._version = mqtt_version
        self._qos = qos
        self._receipt_seconds = receipt_seconds
        # Random, so that two runs never take each other's session.
        self._name = f"wattline-loadgen-{secrets.token_hex(3)}"
        self._few = len(lanes) <= FEW_CONNECTIONS
        # One TLS context for all: making one reads the CA files again.
        self._base = LinkOptions.from_settings(settings, client_id=self._name)
        self._wanted: asyncio.Queue[Lane] = asyncio.Queue()
        self._closing = False
        self.connected = 0
        """Lanes that have a connection now."""
        self.away_since: float | None = None
        """Since when (time.monotonic) there has been no connection at all, once there was one."""
        self.reason: LinkError = LinkLost("no connection to the broker yet")

    def away_for(self) -> float:
        """For how many seconds there has been no connection at all."""
        return 0.0 if self.away_since is None else time.monotonic() - self.away_since

    def start(self, group: asyncio.TaskGroup) -> list[asyncio.Task[None]]:
        """The workers, as tasks of `group`, until they are cancelled. They raise LinkRefused."""
        return [group.create_task(self._work()) for _ in range(min(CONNECTING_MAX, len(self.lanes)))]

    async def connect_all(self, stalled_seconds: float | None) -> None:
        """The first connection alone, so that a missing broker is reported once; then the others.

        Raises the latest LinkError when no new connection comes about for that long; None = wait for ever.
        """
        for until in (1, len(self.lanes)):
            for lane in self.lanes[:1] if until == 1 else self.lanes[1:]:
                self._wanted.put_nowait(lane)
            best, since, told = self.connected, time.monotonic(), time.monotonic()
            while self.connected < until:
                await asyncio.sleep(POLL_SECONDS)
                now = time.monotonic()
                if self.connected > best:
                    best, since = self.connected, now
                elif stalled_seconds is not None and now - since > stalled_seconds:
                    raise self._why_not(until)
                if now - told > TELL_SECONDS and until > 1:
                    logger.info("connected %s of %s", f"{self.connected:,}", f"{until:,}")
                    told = now

    async def close(self) -> None:
        self._closing = True
        outlets = [lane.outlet for lane in self.lanes if lane.outlet is not None]
        for start in range(0, len(outlets), DISCONNECTING_MAX):
            await asyncio.gather(*(outlet.disconnect() for outlet in outlets[start : start + DISCONNECTING_MAX]))

    def _why_not(self, wanted: int) -> LinkError:
        if wanted == 1:
            return self.reason.with_traceback(None)
        return LinkLost(
            f"the broker takes {self.connected:,} of {wanted:,} connections and no more ({self.reason}); raise its "
            "limits (max_connections, and `ulimit -n` where it runs), or take fewer --connections"
        )

    async def _work(self) -> None:
        failures = 0
        while True:
            lane = await self._wanted.get()
            try:
                await self._open(lane)
                failures = 0
            except LinkRefused:
                raise
            except LinkError as error:
                self.reason = error
                logger.warning("%s; trying again", error)  # once: see `log`
                failures += 1
                await asyncio.sleep(backoff_seconds(failures, least=RETRY_SECONDS_MIN, most=RETRY_SECONDS_MAX))
                self._wanted.put_nowait(lane)

    async def _open(self, lane: Lane) -> None:
        broker, client_id = self._base.broker, f"{self._name}-{lane.number + 1}"
        if lane.account is not None:
            client_id = lane.account.account
            broker = broker.model_copy(update={"username": client_id, "password": SecretStr(lane.account.secret)})
        options = LinkOptions(
            broker=broker,
            client_id=client_id,
            keepalive_seconds=KEEPALIVE_SECONDS_FEW if self._few else KEEPALIVE_SECONDS_MANY,
            tls=self._base.tls,
        )

        def on_closed(error: LinkError) -> None:
            if lane.outlet is None or self._closing:
                return
            lane.detach()
            self.connected -= 1
            self.reason = error
            if not self.connected:
                self.away_since = time.monotonic()
            logger.warning("%s; trying again", error)  # once: see `log`
            self._wanted.put_nowait(lane)

        connection: Connection | Connection311
        outlet: Outlet
        if self._receipt_seconds is not None:
            outlet = await AskingOutlet.open(
                options,
                self._under_way_max,
                lane.answered,
                device=None if lane.account is None else lane.account.device,
                seconds=self._receipt_seconds,
                counts=lane.counts,
            )
            connection = outlet.connection
        elif self._version == "3.1.1":
            connection = outlet = await Connection311.open(options, self._under_way_max, lane.answered, qos=self._qos)
        else:
            connection = await Connection.open(options)
            outlet = Outbox[Message](connection, self._under_way_max, lane.answered, qos=self._qos)
        self.connected += 1
        self.away_since = None
        lane.attach(outlet)
        connection.on_closed(on_closed)
