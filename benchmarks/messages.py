"""The readings of a benchmark, each a function of its number: what was sent can be told again afterwards, unrecorded.

Meters and vehicles take turns; no device has two readings of the same microsecond.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import lru_cache

from telemetry.kinds import METER, VEHICLE

DAY_US = 86_400_000_000


@dataclass(frozen=True)
class Plan:
    """`count` messages of `devices` devices, half of them meters; timestamps go on in steps, on `days` days in turn."""

    count: int
    devices: int
    start_us: int
    step_us: float
    days: int = 1

    def timestamp_us(self, index: int) -> int:
        """When reading `index` was taken, in µs since 1970."""
        return self.start_us + int(index * self.step_us) - index // 2 % self.days * DAY_US

    def device(self, index: int) -> str:
        """Who took it."""
        number = index // 2 % max(1, self.devices // 2)
        return f"VEH-{number:06}" if index % 2 else f"METER-{number:06}"

    def message(self, index: int) -> tuple[str, bytes]:
        device = self.device(index)
        seconds, micros = divmod(self.timestamp_us(index), 1_000_000)
        at = f"{_to_the_second(seconds)}.{micros:06}Z"
        if index % 2:
            payload = (
                f'{{"vehicleId":"{device}","soc":{index % 100},"kwhDeliveredDc":0.1544,"batteryTemp":31.5,'
                f'"timestamp":"{at}"}}'
            )
            return VEHICLE.topic_prefix + device, payload.encode()
        payload = f'{{"meterId":"{device}","kwhConsumedAc":0.1834,"voltage":238.4,"timestamp":"{at}"}}'
        return METER.topic_prefix + device, payload.encode()

    def keys(self) -> Iterator[tuple[str, int]]:
        """Device and timestamp of every reading."""
        return ((self.device(index), self.timestamp_us(index)) for index in range(self.count))


@lru_cache(maxsize=256)
def _to_the_second(seconds: int) -> str:
    return datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%dT%H:%M:%S")
