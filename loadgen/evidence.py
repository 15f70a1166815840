"""What this run sent and what of it the broker acknowledged: the evidence that the verifier holds against the tables.

Kept as flat arrays, 33 to 45 bytes a reading (a dict of tuples would take ten times that), only where it is asked for.
Readings lie in the order of sending, which is that of their timestamps unless some are late.
"""

from __future__ import annotations

from array import array
from bisect import bisect_left
from collections.abc import Iterable

from loadgen.fleet import Point, Reading
from telemetry.kinds import BY_NAME

SENT, ACKNOWLEDGED, MALFORMED = 0, 1, 2


class DeviceEvidence:
    """One device's readings, each known by its index: its place in the order of sending."""

    __slots__ = ("_ascending", "_order", "_stride", "_values", "acknowledged", "stamps")

    def __init__(self, kind: str) -> None:
        self._stride = len(BY_NAME[kind].measures)
        self._values = array("d")
        self._ascending = True
        self._order: tuple[array[int], array[int]] | None = None
        self.stamps = array("q")
        """Microseconds since 1970, no two the same."""
        self.acknowledged = bytearray()
        """ACKNOWLEDGED where the broker has acknowledged the reading with success; MALFORMED: never to be stored."""

    def add(self, ts_us: int, values: tuple[float, ...], state: int = SENT) -> int:
        """A reading that is about to be sent, with a timestamp of its own; returns its index. 0.4 µs."""
        stamps = self.stamps
        index = len(stamps)
        if index and ts_us < stamps[-1]:
            self._ascending = False
        self._order = None
        stamps.append(ts_us)
        self._values.extend(values)
        self.acknowledged.append(state)
        return index

    def find(self, ts_us: int) -> int | None:
        """The index of the reading with this timestamp."""
        stamps, places = self._sorted()
        place = bisect_left(stamps, ts_us)
        if place == len(stamps) or stamps[place] != ts_us:
            return None
        return place if places is None else places[place]

    def values(self, index: int) -> tuple[float, ...]:
        """The reading's numbers as they were sent, in the order of the table."""
        start = index * self._stride
        return tuple(self._values[start : start + self._stride])

    def newest_acknowledged(self) -> int | None:
        """The timestamp of the newest reading that the broker acknowledged."""
        if self._ascending:
            index = self.acknowledged.rfind(ACKNOWLEDGED)
            return self.stamps[index] if index >= 0 else None
        return max(
            (ts for ts, state in zip(self.stamps, self.acknowledged, strict=True) if state == ACKNOWLEDGED),
            default=None,
        )

    def ends(self) -> tuple[int, int]:
        """The first and the last timestamp; there must be one."""
        stamps, _ = self._sorted()
        return stamps[0], stamps[-1]

    def _sorted(self) -> tuple[array[int], array[int] | None]:
        """The timestamps in their order, and whose each is where that is not the order of sending."""
        if self._ascending:
            return self.stamps, None
        if self._order is None:
            places = array("q", sorted(range(len(self.stamps)), key=self.stamps.__getitem__))
            self._order = array("q", [self.stamps[place] for place in places]), places
        return self._order


class Evidence:
    """All devices of one run."""

    def __init__(self, points: Iterable[Point]) -> None:
        self.devices: dict[str, dict[str, DeviceEvidence]] = {kind: {} for kind in BY_NAME}
        """By the name of the kind and the device's id."""
        for point in points:
            for device in point.devices:
                self.devices[device.kind][device.id] = DeviceEvidence(device.kind)

    def add(self, reading: Reading) -> None:
        """Before it is sent."""
        self.devices[reading.device.kind][reading.device.id].add(reading.ts_us, reading.values)

    def acknowledge(self, reading: Reading) -> None:
        """After its PUBACK with success."""
        device = self.devices[reading.device.kind][reading.device.id]
        index = device.find(reading.ts_us)
        if index is None:
            raise KeyError(f"{reading.device.id} never sent a reading with the timestamp {reading.ts_us}")
        device.acknowledged[index] = ACKNOWLEDGED

    def acknowledged(self, kind: str) -> int:
        """How many readings of a kind the broker acknowledged."""
        return sum(device.acknowledged.count(ACKNOWLEDGED) for device in self.devices[kind].values())

    def window(self) -> tuple[int, int] | None:
        """The first and the last timestamp of the run, both included; None when nothing was sent."""
        ends = [device.ends() for devices in self.devices.values() for device in devices.values() if device.stamps]
        if not ends:
            return None
        return min(first for first, _ in ends), max(last for _, last in ends)
