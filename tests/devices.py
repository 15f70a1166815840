"""Independent devices: paho-mqtt clients, and the payloads that they publish."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from typing import Any

import paho.mqtt.client as paho
from paho.mqtt.enums import CallbackAPIVersion, MQTTErrorCode

from tests.waiting import wait_until


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
    """A connected paho client with QoS 1 that remembers what the broker acknowledged."""

    def __init__(self, client: paho.Client) -> None:
        self._client = client
        self._sent: list[tuple[Any, paho.MQTTMessageInfo]] = []

    def publish(self, topic: str, payload: Any, *, qos: int = 1, retain: bool = False, tag: Any = None) -> None:
        """Publish an object as JSON, or bytes and text as they are."""
        content = payload if isinstance(payload, bytes | str) else json.dumps(payload)
        self._sent.append((tag, self._client.publish(topic, content, qos=qos, retain=retain)))

    def meter(self, reading: dict[str, Any], **options: Any) -> None:
        """Publish a reading of a meter on its topic."""
        self.publish(f"v1/telemetry/meter/{reading['meterId']}", reading, **options)

    def vehicle(self, reading: dict[str, Any], **options: Any) -> None:
        """Publish a reading of a vehicle on its topic."""
        self.publish(f"v1/telemetry/vehicle/{reading['vehicleId']}", reading, **options)

    @property
    def acknowledged(self) -> list[Any]:
        """The tags of the messages that the broker has."""
        return [tag for tag, info in self._sent if info.rc == MQTTErrorCode.MQTT_ERR_SUCCESS and info.is_published()]

    def wait_acknowledged(self, timeout: float = 30) -> None:
        """Until the broker has every message."""
        wait_until(lambda: len(self.acknowledged) == len(self._sent), timeout, "every message is acknowledged")


@contextmanager
def device(port: int, **options: Any) -> Iterator[Device]:
    """A device connected to the broker on a port; it reconnects by itself, as devices do."""
    client = paho.Client(CallbackAPIVersion.VERSION2, protocol=paho.MQTTv5, **options)
    client.max_inflight_messages_set(1000)
    client.reconnect_delay_set(1, 1)
    client.connect("127.0.0.1", port)
    client.loop_start()
    try:
        wait_until(client.is_connected, 10, "the device is connected")
        yield Device(client)
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
            yield "vehicle", vehicle_reading(f"{prefix}VEH-{number:04}", moment, soc=index % 100)
        else:
            yield "meter", meter_reading(f"{prefix}METER-{number:04}", moment, voltage=index % 400)
