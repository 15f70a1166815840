"""Independent devices: paho-mqtt clients, and the payloads that they publish."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from typing import Any

import paho.mqtt.client as paho
from paho.mqtt.enums import CallbackAPIVersion, MQTTErrorCode
from paho.mqtt.packettypes import PacketTypes
from paho.mqtt.properties import Properties
from paho.mqtt.reasoncodes import ReasonCode

from tests.waiting import PATIENCE_SECONDS, wait_until

SUCCESS = 0


def iso(moment: datetime) -> str:
    """RFC 3339 in UTC with microseconds."""
    return moment.astimezone(UTC).isoformat().replace("+00:00", "Z")


def meter_reading(device: str = "METER-001", at: datetime | None = None, **changes: Any) -> dict[str, Any]:
    """A valid payload of a meter, changed as asked."""
    moment = at or datetime.now(UTC)
    return {"meterId": device, "kwhConsumedAc": 0.1834, "voltage": 238.4, "timestamp": iso(moment)} | changes


def vehicle_reading(device: str = "VEH-001", at: datetime | None = None, **changes: Any) -> dict[str, Any]:
    """A valid payload of a vehicle, changed as asked."""
    moment = at or datetime.now(UTC)
    return {
        "vehicleId": device,
        "soc": 75,
        "kwhDeliveredDc": 0.1544,
        "batteryTemp": 31.5,
        "timestamp": iso(moment),
    } | changes


class Device:
    """A connected paho client that remembers what the broker answered; it has message ids for 65,535 messages."""

    def __init__(self, client: paho.Client) -> None:
        self._client = client
        self._tags: dict[int, Any] = {}
        self._answers: dict[int, int] = {}
        client.on_publish = self._on_publish

    def publish(  # noqa: PLR0913 - what a PUBLISH has
        self,
        topic: str,
        payload: Any,
        *,
        qos: int = 1,
        retain: bool = False,
        tag: Any = None,
        correlation: bytes | None = None,
    ) -> None:
        """Publish an object as JSON, or bytes and text as they are. Without a connection QoS 1 waits, QoS 0 is lost."""
        content = payload if isinstance(payload, bytes | str) else json.dumps(payload)
        properties = None
        if correlation is not None:
            properties = Properties(PacketTypes.PUBLISH)
            properties.CorrelationData = correlation
        info = self._client.publish(topic, content, qos=qos, retain=retain, properties=properties)
        assert info.mid not in self._tags, "no message id is left"
        if qos or info.rc == MQTTErrorCode.MQTT_ERR_SUCCESS:
            self._tags[info.mid] = tag

    def meter(self, reading: dict[str, Any], **options: Any) -> None:
        """Publish a reading of a meter on its topic."""
        self.publish(f"v1/telemetry/meter/{reading['meterId']}", reading, **options)

    def vehicle(self, reading: dict[str, Any], **options: Any) -> None:
        """Publish a reading of a vehicle on its topic."""
        self.publish(f"v1/telemetry/vehicle/{reading['vehicleId']}", reading, **options)

    @property
    def acknowledged(self) -> list[Any]:
        """The tags of the messages that the broker has taken: answered with success, and not just answered."""
        return [tag for mid, tag in list(self._tags.items()) if self._answers.get(mid) == SUCCESS]

    @property
    def refused(self) -> list[Any]:
        """The tags of the messages that the broker has answered with anything else, such as "nobody is subscribed"."""
        return [tag for mid, tag in list(self._tags.items()) if self._answers.get(mid, SUCCESS) != SUCCESS]

    @property
    def unanswered(self) -> int:
        """How many messages the broker has not answered yet."""
        return len(self._tags) - len(self._answers)

    def wait_acknowledged(self, timeout: float = PATIENCE_SECONDS) -> None:
        """Until the broker has answered every message."""
        wait_until(lambda: self.unanswered == 0, timeout, "the broker's answer to every message")

    def _on_publish(self, _client: paho.Client, _data: Any, mid: int, reason: ReasonCode, _: Properties) -> None:
        self._answers[mid] = reason.value


@contextmanager
def device(port: int, **options: Any) -> Iterator[Device]:
    """A device connected to the broker on a port; it reconnects by itself, as devices do."""
    client = paho.Client(CallbackAPIVersion.VERSION2, **{"protocol": paho.MQTTv5} | options)
    publisher = Device(client)
    client.max_inflight_messages_set(1000)
    client.reconnect_delay_set(1, 1)
    client.connect("127.0.0.1", port)
    client.loop_start()
    try:
        wait_until(client.is_connected, 10, "the device is connected")
        yield publisher
    finally:
        client.disconnect()
        client.loop_stop()


def readings_of_fleet(count: int, *, devices: int = 100, prefix: str = "") -> Iterable[tuple[str, dict[str, Any]]]:
    """`count` distinct readings, meters and vehicles in turn, as (kind, payload), within the last hours."""
    start = datetime.now(UTC) - timedelta(hours=2)
    for index in range(count):
        moment = start + timedelta(milliseconds=index)
        number = index // 2 % devices
        if index % 2:
            changes = {"soc": index % 100, "kwhDeliveredDc": index / 10_000}
            yield "vehicle", vehicle_reading(f"{prefix}VEH-{number:04}", moment, **changes)
        else:
            changes = {"voltage": index % 400, "kwhConsumedAc": index / 10_000}
            yield "meter", meter_reading(f"{prefix}METER-{number:04}", moment, **changes)
