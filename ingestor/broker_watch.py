"""What the broker itself has dropped and holds, from Mosquitto's `$SYS`: the only sign of a loss behind its PUBACK.

It has a connection of its own, so that nothing of this enters the session that keeps the readings. Where the broker
takes both connections for one client (Mosquitto's use_username_as_clientid), it would end that session; so it first
connects before the link does, with nothing to lose, and goes on only if the link leaves it alone. A broker that tells
nothing, or refuses, is fine. With an account of its own (MQTT_MONITOR_URL) it is another client in any case.
"""

from __future__ import annotations

import asyncio
import logging
import secrets
from collections.abc import Iterator
from dataclasses import replace

import mqtt5
from prometheus_client import CollectorRegistry
from prometheus_client.metrics_core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from config.seldom import Once
from mqtt.connection import Connection
from mqtt.errors import LinkError, LinkRefused
from mqtt.link import Link
from mqtt.options import LinkOptions

logger = logging.getLogger(__name__)

DROPPED = "$SYS/broker/publish/messages/dropped"
STORED = "$SYS/broker/store/messages/count"
RETAINED = "$SYS/broker/retained messages/count"

WATCH = "-watch-"
# The session of a first connection whose process is killed at once; there is nothing in it.
INTRODUCED_EXPIRY_SECONDS = 3600
# The readings do not wait longer than this for a first connection that is only for figures.
INTRODUCTION_SECONDS_MAX = 3.0
# A broker that takes both for one client cuts the first as soon as the second is there.
PROOF_SECONDS = 2.0
RETRY_SECONDS = 30.0


class BrokerCounts(Collector):
    """The broker's own figures as metrics; none while it does not tell."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self._values: dict[str, float] = {}
        registry.register(self)

    def received(self, connection: Connection, packets: list[mqtt5.PublishPacket]) -> None:
        """Take what came; called by the connection."""
        del connection
        for packet in packets:
            try:
                self._values[packet.topic] = float(packet.payload)
            except ValueError:
                logger.debug("the broker says %r on %s", packet.payload[:100], packet.topic)

    def forget(self) -> None:
        """They are not told any more."""
        self._values.clear()

    def collect(self) -> Iterator[Metric]:
        values = self._values
        if DROPPED in values:
            yield CounterMetricFamily(
                "wattline_broker_dropped",
                "Messages that the broker has dropped since its start, by its own count: acknowledged ones too",
                value=values[DROPPED],
            )
        if STORED in values:
            yield GaugeMetricFamily(
                "wattline_broker_queued_messages",
                "Messages that the broker holds for its clients, by its own count, retained ones aside",
                value=max(0.0, values[STORED] - values.get(RETAINED, 0.0)),
            )


class BrokerWatch:
    """Keeps `BrokerCounts` up to date: `introduce` before each attempt of the link to connect, and `run` beside it."""

    def __init__(self, options: LinkOptions, registry: CollectorRegistry, monitor: LinkOptions | None = None) -> None:
        """`options` are the link's; `monitor` the figures' own, where they are not read by the same account."""
        by = options if monitor is None or monitor.broker == options.broker else monitor
        self._options = replace(
            by,
            # New for each process: nothing is left of it, unless the broker takes both for one client.
            client_id=f"{options.client_id}{WATCH}{secrets.token_hex(4)}",
            session_expiry_seconds=min(options.session_expiry_seconds, INTRODUCED_EXPIRY_SECONDS),
            connect_timeout_seconds=INTRODUCTION_SECONDS_MAX,
        )
        self._counts = BrokerCounts(registry)
        self._introduced: Connection | None = None
        self._given_up, self._proven = False, by is not options

    async def introduce(self) -> None:
        """Connect without touching a session, so that the link, which connects next, can show whose it is."""
        if self._given_up or self._proven:
            return
        if self._introduced is not None:
            # The link has failed or was cut beside it: perhaps the broker allows only one of the two.
            await self._give_up("the link to the broker did not come up beside a second connection")
            return
        try:
            # As the link does: should it be the same session, then nothing of it is lost.
            connection = await Connection.open(self._options)
        except LinkError as error:
            logger.debug("no second connection to the broker: %s", error)
            return
        except Exception:
            logger.exception("no second connection to the broker")  # a fault of ours; the link must not suffer from it
            return
        self._introduced = connection
        if connection.session_present:
            await self._give_up("the broker takes a second connection for the first one")

    async def run(self, link: Link) -> None:
        """Watch until cancelled, or until it is known that this broker cannot be watched."""
        try:
            if await self._prove(link):
                await self._watch()
        except Exception:
            logger.exception("the broker's own counts are not watched any more")
        finally:
            self._counts.forget()
            if self._introduced is not None:
                await self._introduced.disconnect(end_session=self._proven)

    async def _prove(self, link: Link) -> bool:
        """Whether our connection and the link's are two for the broker."""
        while not (self._given_up or self._proven):
            try:
                await link.wait_connected(RETRY_SECONDS)
            except LinkRefused:
                return False  # for good
            except LinkError:
                continue
            connection = self._introduced
            if connection is None:
                await asyncio.sleep(RETRY_SECONDS)  # introduced before the next attempt of the link
                continue
            ended = asyncio.ensure_future(connection.closed())
            await asyncio.wait([ended], timeout=PROOF_SECONDS)
            ended.cancel()
            if not connection.is_open:
                await self._give_up("the broker takes a second connection for the first one, or allows only one")
            elif link.connection is not None:
                self._proven, self._introduced = True, None
                await connection.disconnect(end_session=True)
        return self._proven

    async def _watch(self) -> None:
        options = replace(self._options, clean_start=True, session_expiry_seconds=0)
        said = Once()
        while True:
            try:
                connection = await Connection.open(options, self._counts.received)
                try:
                    for topic in (DROPPED, STORED, RETAINED):
                        await connection.subscribe(topic, qos=0)
                    reason = await connection.closed()
                finally:
                    await connection.disconnect()
            except LinkError as error:
                reason = error
            self._counts.forget()
            if said.is_new(str(reason)):
                logger.info("the broker's own counts are not known at the moment: %s", reason)
            await asyncio.sleep(RETRY_SECONDS)

    async def _give_up(self, why: str) -> None:
        self._given_up = True
        logger.info("the broker's own counts are not watched: %s", why)
        connection, self._introduced = self._introduced, None
        if connection is not None:
            await connection.disconnect()
