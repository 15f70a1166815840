"""Readings with faults: each malformed payload is one that the ingestor refuses, late ones and duplicates are known."""

from __future__ import annotations

from random import Random

import mqtt5
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ingestor.batch import Batch
from ingestor.decode import Decoder
from ingestor.rejected.limit import KeepLimit
from loadgen.counts import Counts
from loadgen.evidence import MALFORMED, SENT, Evidence
from loadgen.fleet import Reading, make_fleet
from loadgen.messages import DUPLICATE, LATE_SECONDS, READING, REFUSABLE, Faults, Message, MessageMaker, malform
from loadgen.templates import Templates
from telemetry.rules import Rules

NOON_US = 1_769_868_000_000_000
WAYS = 6


def decoded(*messages: Message) -> Batch:
    batch = Batch()
    decoder = Decoder(Rules(), keep_limit=KeepLimit(1_000_000))
    decoder.decode([mqtt5.PublishPacket(one.topic, one.payload) for one in messages], batch, NOON_US / 1e6)
    return batch


def as_message(reading: Reading, payload: bytes) -> Message:
    return Message(reading.device.topic, payload, 0.0, READING, None, 0)


@given(st.integers(0, 2**32), st.integers(0, 29))
def test_every_way_to_be_malformed_is_refused_whichever_the_reading(seed: int, step: int) -> None:
    points = make_fleet({"meter": 1, "vehicle": 1}, "LOAD", Random(seed))
    simulated = points[0].read(NOON_US, 5.0, Random(seed))
    made = Templates(points, Random(seed))
    for reading in (*simulated, *(made.read(step * 2 + place, NOON_US) for place in (0, 1))):
        assert decoded(as_message(reading, reading.payload)).rejected == []
        for which in range(WAYS):
            batch = decoded(as_message(reading, malform(reading.payload, which)))
            assert (batch.rows_in_all, len(batch.rejected)) == (0, 1), which


@pytest.mark.parametrize(
    ("which", "code", "said"),
    [
        (0, "invalid_json", "not JSON"),
        (1, "invalid_shape", "colour"),
        (2, "invalid_shape", "kwhConsumedAc"),
        (3, "invalid_value", "kwhConsumedAc: input should be greater"),
        (4, "invalid_value", "kwhConsumedAc: input should be a valid number"),
        (5, "invalid_value", "timestamp: must be RFC 3339 with an offset"),
    ],
)
def test_each_way_has_its_own_reason(which: int, code: str, said: str) -> None:
    (reading,) = make_fleet({"meter": 1, "vehicle": 0}, "LOAD", Random(1))[0].read(NOON_US, 5.0, Random(1))
    (refusal,) = decoded(as_message(reading, malform(reading.payload, which))).rejected
    assert refusal.code == code
    assert said in refusal.reason


def maker(faults: Faults) -> tuple[MessageMaker, Counts, Evidence, list[Reading]]:
    points, counts = make_fleet({"meter": 50, "vehicle": 50}, "LOAD", Random(1)), Counts()
    evidence = Evidence(points)
    readings = [one for point in points for one in point.read(NOON_US, 5.0, Random(1))]
    return MessageMaker(faults, counts, evidence, Random(1)), counts, evidence, readings


def states(evidence: Evidence) -> list[int]:
    return [state for devices in evidence.devices.values() for one in devices.values() for state in one.acknowledged]


def test_without_faults_a_reading_is_a_message() -> None:
    made, counts, evidence, readings = maker(Faults())
    messages = [one for reading in readings for one in made.messages(reading, 7.0)]
    assert [one.payload for one in messages] == [one.payload for one in readings]
    assert {(one.due, one.role) for one in messages} == {(7.0, READING)}
    assert states(evidence) == [SENT] * 100
    assert (counts.late, counts.duplicates, counts.malformed) == (0, 0, 0)


def test_all_malformed_are_refused_and_never_to_be_stored() -> None:
    made, counts, evidence, readings = maker(Faults(malformed=1.0, late=1.0, duplicates=1.0))
    messages = [one for reading in readings for one in made.messages(reading, 0.0)]
    assert {one.role for one in messages} == {REFUSABLE}
    assert len(decoded(*messages).rejected) == counts.malformed == 100
    assert states(evidence) == [MALFORMED] * 100
    assert (counts.late, counts.duplicates) == (0, 0)


def test_late_ones_say_an_hour_before_in_odd_microseconds_and_are_taken() -> None:
    made, counts, evidence, readings = maker(Faults(late=1.0))
    batch = decoded(*(one for reading in readings for one in made.messages(reading, 0.0)))
    late_us = NOON_US - LATE_SECONDS * 1_000_000 + 1
    assert {row[1] for row in (row for rows in batch.rows.values() for row in rows)} == {late_us}
    assert batch.rows_in_all == counts.late == 100
    assert evidence.window() == (late_us, late_us)


def test_duplicates_are_the_same_bytes_beside_the_reading_and_one_piece_of_evidence() -> None:
    made, counts, evidence, readings = maker(Faults(duplicates=1.0))
    for reading in readings:
        first, second = made.messages(reading, 0.0)
        assert (first.role, second.role) == (READING, DUPLICATE)
        assert first.payload == second.payload == reading.payload
        assert (first.evidence, first.place) == (second.evidence, second.place)
    assert states(evidence) == [SENT] * counts.duplicates == [SENT] * 100
