"""The link on paho-mqtt, for the comparison: the ingestor's own pipeline, with another client under it.

Paho reads in a thread of its own; what it brings is handed to the event loop in portions, as many as have come since
the loop last looked, and acknowledged by hand after the commit.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Sequence
from typing import Any

import mqtt5
from paho.mqtt.client import Client, MQTTMessage
from paho.mqtt.enums import CallbackAPIVersion, MQTTProtocolVersion
from paho.mqtt.packettypes import PacketTypes
from paho.mqtt.properties import Properties

from ingestor.source import OnMessages
from mqtt.options import LinkOptions


class PahoLink:
    """A source of the ingestor, and its own channel as well."""

    def __init__(
        self,
        options: LinkOptions,
        *,
        subscribe: Sequence[str],
        on_publish: OnMessages,
        **_never: object,  # about sessions that are kept and connections that are cut: a benchmark has neither
    ) -> None:
        self._options = options
        self._subscribe = subscribe
        self._on_publish = on_publish
        self._loop = asyncio.get_running_loop()
        self._arrived: deque[mqtt5.PublishPacket] = deque()
        self._called = False
        self._client = client = Client(
            CallbackAPIVersion.VERSION2,
            client_id=options.client_id,
            protocol=MQTTProtocolVersion.MQTTv5,
            manual_ack=True,
        )
        client.on_connect = self._on_connect
        client.on_message = self._on_message

    async def run(self) -> None:
        """Connected until cancelled."""
        options = self._options
        properties = Properties(PacketTypes.CONNECT)  # type: ignore[no-untyped-call]
        properties.ReceiveMaximum = options.receive_maximum
        properties.SessionExpiryInterval = options.session_expiry_seconds
        self._client.connect(
            options.broker.host, options.broker.port, clean_start=options.clean_start, properties=properties
        )
        self._client.loop_start()
        try:
            await asyncio.Event().wait()
        finally:
            self._client.disconnect()
            self._client.loop_stop()

    @property
    def connection(self) -> PahoLink | None:
        """Itself: packet ids are acknowledged where they came from."""
        return self if self._client.is_connected() else None

    def acknowledge(self, packet_ids: Sequence[int]) -> bool:
        """As `Connection.acknowledge`."""
        acknowledge = self._client.ack
        for packet_id in packet_ids:
            acknowledge(packet_id, 1)
        return True

    def pause_reading(self) -> None:
        """Paho cannot; the window bounds what arrives."""

    def resume_reading(self) -> None:
        """See `pause_reading`."""

    def deliver_again(self, why: str) -> None:
        """A benchmark that loses count has measured nothing."""
        raise SystemExit(why)

    def outlet(self, *_: object) -> None:
        """Nobody asks for receipts here."""

    async def unsubscribe(self, topic_filter: str) -> None:
        """As `Connection.unsubscribe`: the answer comes after everything that was acknowledged before."""
        answered = self._loop.create_future()

        def on_unsubscribe(*_: Any) -> None:  # noqa: ANN401 - paho has three signatures
            self._loop.call_soon_threadsafe(answered.set_result, None)

        self._client.on_unsubscribe = on_unsubscribe
        self._client.unsubscribe(topic_filter)
        await answered

    def _on_connect(self, client: Client, *_: Any) -> None:  # noqa: ANN401 - paho's signature
        for topic_filter in self._subscribe:
            client.subscribe(topic_filter, qos=1)

    def _on_message(self, _client: Client, _userdata: object, message: MQTTMessage) -> None:
        """In paho's thread. The first that finds the loop not called since its last look calls it."""
        self._arrived.append(
            mqtt5.PublishPacket(
                message.topic,
                bytes(message.payload),
                qos=mqtt5.QoS.AT_LEAST_ONCE,
                packet_id=message.mid,
                duplicate=bool(message.dup),
            )
        )
        if not self._called:
            self._called = True
            self._loop.call_soon_threadsafe(self._hand_on)

    def _hand_on(self) -> None:
        self._called = False
        arrived = self._arrived
        packets = [arrived.popleft() for _ in range(len(arrived))]
        if packets:
            self._on_publish(self, packets)
