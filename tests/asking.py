"""A device that asks for receipts: a paho-mqtt client with MQTT 5, independent of wattline's own."""

from __future__ import annotations

import itertools
import json
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import paho.mqtt.client as paho
from paho.mqtt.enums import CallbackAPIVersion
from paho.mqtt.packettypes import PacketTypes
from paho.mqtt.properties import Properties
from paho.mqtt.subscribeoptions import SubscribeOptions

from tests.waiting import wait_until

Receipt = dict[str, Any]


class Asking:
    """Publishes with a Response Topic, and remembers each receipt under the Correlation Data that came with it."""

    def __init__(self, client: paho.Client, kind: str, device_id: str) -> None:
        self.topic = f"v1/telemetry/{kind}/{device_id}"
        self.receipt_topic = f"v1/receipts/{device_id}/test"
        self.receipts: dict[bytes, list[Receipt]] = {}
        self._client = client
        self._numbers = itertools.count(1)
        self._subscribed = False
        client.on_message = self._on_message
        client.on_connect = self._on_connect
        client.on_subscribe = self._on_subscribe

    def wait_subscribed(self) -> None:
        """Until the broker sends receipts on."""
        wait_until(lambda: self._subscribed, what="the device is subscribed")

    def ask(self, payload: Any, *, qos: int = 1, receipt_topic: str | None = None) -> bytes:
        """Publish; the result is the Correlation Data."""
        properties = Properties(PacketTypes.PUBLISH)
        properties.ResponseTopic = receipt_topic or self.receipt_topic
        properties.CorrelationData = correlation = b"%d" % next(self._numbers)
        content = payload if isinstance(payload, bytes) else json.dumps(payload)
        self._client.publish(self.topic, content, qos=qos, properties=properties)
        return correlation

    def receipt(self, correlation: bytes) -> Receipt:
        """The first receipt of a message, once it has come."""
        return wait_until(lambda: self.receipts.get(correlation), what=f"the receipt of {correlation!r}")[0]

    def told(self, payload: Any, **options: Any) -> Receipt:
        """What a device hears of a message."""
        return self.receipt(self.ask(payload, **options))

    def _on_connect(self, client: paho.Client, *_: Any) -> None:
        client.subscribe(self.receipt_topic, options=SubscribeOptions(qos=1))

    def _on_subscribe(self, *_: Any) -> None:
        self._subscribed = True

    def _on_message(self, _client: paho.Client, _data: Any, message: paho.MQTTMessage) -> None:
        assert (message.topic, message.qos) == (self.receipt_topic, 1)
        correlation: bytes = message.properties.CorrelationData
        self.receipts.setdefault(correlation, []).append(json.loads(message.payload))


@contextmanager
def asking(port: int, device_id: str = "METER-001", kind: str = "meter") -> Iterator[Asking]:
    """A device that is connected and subscribed to its receipts."""
    client = paho.Client(CallbackAPIVersion.VERSION2, protocol=paho.MQTTv5)
    client.max_inflight_messages_set(1000)
    one = Asking(client, kind, device_id)
    client.connect("127.0.0.1", port)
    client.loop_start()
    try:
        one.wait_subscribed()
        yield one
    finally:
        client.disconnect()
        client.loop_stop()
