"""A fleet that goes on publishing while something breaks, and knows what it has published."""

from __future__ import annotations

import threading
from collections.abc import Iterable
from itertools import islice
from typing import Self

import psycopg

from tests.devices import Device, meter_reading, readings_of_fleet
from tests.faults.counting import Published
from tests.waiting import PATIENCE_SECONDS, wait_until

PORTION_SECONDS = 0.02
READINGS_MAX = 60_000  # a device has 65,535 message ids


class Load:
    """Publishes distinct readings at a steady rate, from a thread, until `stop` or the end of the context."""

    def __init__(self, device: Device, per_second: int, *, prefix: str = "") -> None:
        self.published: list[Published] = []
        self._device = device
        self._portion = max(1, round(per_second * PORTION_SECONDS))
        self._source = iter(readings_of_fleet(READINGS_MAX, prefix=prefix))
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="load", daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *exc: object) -> None:
        self._stop.set()
        self._thread.join()

    def wait_published(self, count: int, timeout: float = PATIENCE_SECONDS) -> None:
        """Until so many more readings are published."""
        enough = len(self.published) + count
        wait_until(lambda: len(self.published) >= enough, timeout, f"{count} more readings")

    def stop(self) -> list[Published]:
        """Publish nothing more; what was published, once the broker has acknowledged all of it."""
        self.__exit__()
        self._device.wait_acknowledged()
        assert not self._device.refused
        return self.published

    def finish(self, url: str, timeout: float = PATIENCE_SECONDS) -> list[Published]:
        """`stop`, and one reading more, waited for until it is stored.

        A broker sends one session its messages in order, redelivered ones first: what is missing when the last one is
        stored was lost or forgotten, and is not just on its way.
        """
        return [*self.stop(), publish_last(self._device, url, timeout)]

    def _run(self) -> None:
        while not self._stop.wait(PORTION_SECONDS):
            portion = list(islice(self._source, self._portion))
            publish_all(self._device, portion)
            self.published += portion


def publish_all(device: Device, readings: Iterable[Published]) -> None:
    """Publish each reading on its topic; it is its own tag, for what the device says of the broker's answers."""
    for kind, payload in readings:
        (device.meter if kind == "meter" else device.vehicle)(payload, tag=(kind, payload))


def publish_last(device: Device, url: str, timeout: float = PATIENCE_SECONDS) -> Published:
    """Publish a reading after all others, and wait until it is stored."""
    reading = meter_reading("LAST")
    device.meter(reading)
    with psycopg.connect(url, autocommit=True) as connection:
        query = "SELECT FROM meter_status WHERE meter_id = 'LAST'"
        wait_until(lambda: connection.execute(query).rowcount, timeout, "the last reading is stored")
    return "meter", reading
