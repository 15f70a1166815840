"""Readings become messages: noted in the evidence, and some of them with a fault, as shares of all.

A late one carries a timestamp of an hour before, a duplicate is the same bytes a second time, a malformed one must be
refused by the ingestor. The verifier knows each: late ones are stored, duplicates once, malformed ones never. So that
no two messages share a timestamp by chance, late ones have odd microseconds and all others even ones.
"""

from __future__ import annotations

from dataclasses import dataclass
from random import Random
from typing import Final, NamedTuple

from loadgen.committed import Committed
from loadgen.counts import Counts
from loadgen.evidence import MALFORMED, SENT, DeviceEvidence, Evidence
from loadgen.fleet import Reading, timestamp_text

LATE_SECONDS: Final = 3600
# Where all are faults there is no reading left to be late or sent twice.
READING, DUPLICATE, REFUSABLE = 0, 1, 2


@dataclass(frozen=True)
class Faults:
    """Shares from 0 to 1 of the messages."""

    duplicates: float = 0.0
    late: float = 0.0
    malformed: float = 0.0

    @property
    def any(self) -> bool:
        return bool(self.duplicates or self.late or self.malformed)


class Message(NamedTuple):
    """What a lane sends, and what has to be known when its answer comes."""

    topic: str
    payload: bytes
    due: float
    """When it was to be sent, by time.monotonic."""
    role: int
    evidence: DeviceEvidence | None
    place: int
    """Its index in the evidence."""


class MessageMaker:
    """Makes the messages of one run."""

    def __init__(
        self, faults: Faults, counts: Counts, evidence: Evidence | None, rng: Random, committed: Committed | None = None
    ) -> None:
        self._faults = faults
        self._counts = counts
        self._evidence = evidence
        self._rng = rng
        self._committed = committed

    def messages(self, reading: Reading, due: float) -> list[Message]:
        """The message of a reading, or two. 0.9 µs without faults."""
        if self._faults.any:
            return self._with_faults(reading, due)
        return [self._message(reading, due)]

    def _message(self, reading: Reading, due: float, role: int = READING, state: int = SENT) -> Message:
        device, ts_us, values, payload = reading
        if self._committed is not None and role == READING:
            self._committed.offer(reading, due)
        if self._evidence is None:
            return Message(device.topic, payload, due, role, None, 0)
        evidence = self._evidence.devices[device.kind][device.id]
        return Message(device.topic, payload, due, role, evidence, evidence.add(ts_us, values, state))

    def _with_faults(self, reading: Reading, due: float) -> list[Message]:
        faults, counts, chance = self._faults, self._counts, self._rng.random
        if chance() < faults.malformed:
            counts.malformed += 1
            broken = reading._replace(payload=malform(reading.payload, counts.malformed))
            return [self._message(broken, due, REFUSABLE, MALFORMED)]
        if chance() < faults.late:
            counts.late += 1
            reading = _an_hour_before(reading)
        message = self._message(reading, due)
        if chance() < faults.duplicates:
            counts.duplicates += 1
            return [message, message._replace(role=DUPLICATE)]
        return [message]


def malform(payload: bytes, which: int) -> bytes:
    """A payload that the contract refuses, in one of several ways; its device and its timestamp stay readable."""
    first = payload.index(b",") + 1
    match which % 6:
        case 0:
            return payload[:-1]  # cut off
        case 1:
            return payload[:first] + b'"colour":"red",' + payload[first:]  # a field that no reading has
        case 2:
            return payload[:first] + payload[payload.index(b",", first) + 1 :]  # a field is missing
        case 3:
            colon, comma = payload.index(b":", first) + 1, payload.index(b",", first)
            return payload[:colon] + b"-1e300" + payload[comma:]  # less than any bound
        case 4:
            colon, comma = payload.index(b":", first) + 1, payload.index(b",", first)
            return payload[:colon] + b'"' + payload[colon:comma] + b'"' + payload[comma:]  # a number as a string
        case _:
            return payload[:-3] + payload[-2:]  # no offset


def _an_hour_before(reading: Reading) -> Reading:
    ts_us = (reading.ts_us - LATE_SECONDS * 1_000_000) | 1
    payload = reading.payload.replace(timestamp_text(reading.ts_us).encode(), timestamp_text(ts_us).encode())
    return reading._replace(ts_us=ts_us, payload=payload)
