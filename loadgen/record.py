"""What this run sent and what of it the broker acknowledged: the evidence that the verifier holds against the tables.

Kept as flat arrays, 33 to 45 bytes a reading (a dict of tuples would take ten times that), only where it is asked for.
"""

from __future__ import annotations

from array import array
from bisect import bisect_left
from collections.abc import Iterable

from loadgen.fleet import ChargingPoint, Reading
from telemetry.topics import KINDS, Kind

VALUES_PER_READING: dict[Kind, int] = {"meter": 2, "vehicle": 3}
READING_BYTES = 45


class DeviceRecord:
    """One device's readings, in the order of their timestamps."""

    __slots__ = ("_stride", "_values", "acknowledged", "stamps")

    def __init__(self, kind: Kind) -> None:
        self._stride = VALUES_PER_READING[kind]
        self._values = array("d")
        self.stamps = array("q")
        """Microseconds since 1970, ascending."""
        self.acknowledged = bytearray()
        """1 where the broker acknowledged the reading with success, else 0."""

    def add(self, ts_us: int, values: tuple[float, ...]) -> None:
        """A reading that is about to be sent; its timestamp is newer than all before."""
        self.stamps.append(ts_us)
        self._values.extend(values)
        self.acknowledged.append(0)

    def find(self, ts_us: int) -> int | None:
        """The index of the reading with this timestamp."""
        index = bisect_left(self.stamps, ts_us)
        return index if index < len(self.stamps) and self.stamps[index] == ts_us else None

    def values(self, index: int) -> tuple[float, ...]:
        """The reading's numbers as they were sent, in the order of the table."""
        start = index * self._stride
        return tuple(self._values[start : start + self._stride])

    def newest_acknowledged(self) -> int | None:
        """The timestamp of the newest reading that the broker acknowledged."""
        index = self.acknowledged.rfind(1)
        return self.stamps[index] if index >= 0 else None


class Record:
    """All devices of one run."""

    def __init__(self, points: Iterable[ChargingPoint]) -> None:
        self.devices: dict[Kind, dict[str, DeviceRecord]] = {kind: {} for kind in KINDS}
        for point in points:
            for device in (point.meter, point.vehicle):
                if device is not None:
                    self.devices[device.kind][device.id] = DeviceRecord(device.kind)

    def add(self, reading: Reading) -> None:
        """Before it is sent."""
        self.devices[reading.device.kind][reading.device.id].add(reading.ts_us, reading.values)

    def acknowledge(self, reading: Reading) -> None:
        """After its PUBACK with success."""
        device = self.devices[reading.device.kind][reading.device.id]
        index = device.find(reading.ts_us)
        if index is None:
            raise KeyError(f"{reading.device.id} never sent a reading with the timestamp {reading.ts_us}")
        device.acknowledged[index] = 1

    def acknowledged(self, kind: Kind) -> int:
        """How many readings of a kind the broker acknowledged."""
        return sum(device.acknowledged.count(1) for device in self.devices[kind].values())

    def window(self) -> tuple[int, int] | None:
        """The first and the last timestamp of the run, both included; None when nothing was sent."""
        sent = [device.stamps for devices in self.devices.values() for device in devices.values() if device.stamps]
        if not sent:
            return None
        return min(stamps[0] for stamps in sent), max(stamps[-1] for stamps in sent)
