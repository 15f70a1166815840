"""Readings at high rates: the models' numbers, worked out before the run and written into payloads during it.

A simulated reading costs 10 µs, one of these 1 µs. What it gives up is the course of a battery over hours: each charger
goes round and round through half an hour of charging. What it keeps: every number is known exactly, each charger has
its health, and the AC energy of a meter's reading is more than the DC energy of its vehicle's. No I/O here.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from random import Random
from typing import Final, NamedTuple

from loadgen.fleet import Device, Model, Point, Reading, timestamp_text
from loadgen.model import HEALTH_BY_PLACE
from loadgen.payloads import FORMS

# Enough models of a sort that a table does not look copied, in whole rounds of the chargers' healths.
MODELS_MAX: Final = 10 * len(HEALTH_BY_PLACE)
STEPS: Final = 30
STEP_SECONDS: Final = 60.0


class Part(NamedTuple):
    """What a payload says between its device and its time, and the numbers in it."""

    text: str
    values: tuple[float, ...]


class Templates:
    """The devices of a fleet, one after the other, and what each of them reads."""

    def __init__(self, points: Sequence[Point], rng: Random) -> None:
        made: defaultdict[str, list[Mapping[str, list[Part]]]] = defaultdict(list)
        places: Counter[str] = Counter()
        self._devices: list[tuple[Device, str, list[Part]]] = []
        for point in points:
            family = point.model.family
            if places[family] < MODELS_MAX:
                made[family].append(_parts(point.model, rng))
            parts = made[family][places[family] % MODELS_MAX]
            places[family] += 1
            for device in point.devices:
                self._devices.append((device, FORMS[device.kind].head.format(device.id), parts[device.kind]))

    def __len__(self) -> int:
        """How many devices there are."""
        return len(self._devices)

    def read(self, turn: int, ts_us: int) -> Reading:
        """The reading of a turn: device after device, round after round. 1 µs."""
        rounds, place = divmod(turn, len(self._devices))
        device, head, parts = self._devices[place]
        text, values = parts[rounds % STEPS]
        return Reading(device, ts_us, values, f'{head}{text}{timestamp_text(ts_us)}"}}'.encode())


def _parts(model: Model, rng: Random) -> Mapping[str, list[Part]]:
    """Half an hour of a model, by the name of the kind."""
    parts: defaultdict[str, list[Part]] = defaultdict(list)
    for _ in range(STEPS):
        for kind, values in model.measure(STEP_SECONDS, rng).items():
            parts[kind].append(Part(FORMS[kind].numbers.format(*values), values))
    return parts
