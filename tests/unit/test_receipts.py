"""Receipts: who may ask where, what becomes of each reading of a message, and what a device reads of it; no server."""

from __future__ import annotations

import json
from datetime import timedelta
from typing import Any

import mqtt5
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ingestor.batch import Batch, Refusal
from ingestor.decode import Decoder
from ingestor.receipts.receipt import Receipt
from ingestor.rejected.limit import KeepLimit
from telemetry.receipts import REASON_CHARACTERS_MAX, REFUSED_LISTED_MAX, is_receipt_topic
from telemetry.rules import Rules
from tests.devices import meter_reading, vehicle_reading
from tests.examples import examples
from tests.unit.test_decode import NOW, TOPICS, payloads

OWN = "v1/receipts/M/r"


@pytest.mark.parametrize(
    ("topic", "device", "allowed"),
    [
        ("v1/receipts/M/r", "M", True),
        ("v1/receipts/M/a/b-c/~@=;", "M", True),
        ("v1/receipts/METER-001/" + "x" * 100, "METER-001", True),
        ("v1/receipts/N/r", "M", False),
        ("v1/receipts/M", "M", False),
        ("v1/receipts/M/", "M", False),
        ("v1/receipts/M//r", "M", False),
        ("v1/receipts/M2/r", "M", False),
        ("v1/receipts/M/+", "M", False),
        ("v1/receipts/M/#", "M", False),
        ("v1/receipts/M/a b", "M", False),
        ("v1/receipts/M/ü", "M", False),
        ("v1/receipts/M/r\n", "M", False),
        ("v1/receipts/M/" + "x" * 101, "M", False),
        ("v1/receipts/M" + "/x" * 8, "M", True),
        ("v1/receipts/M" + "/x" * 9, "M", False),
        ("v1/telemetry/meter/M", "M", False),
        ("$SYS/M/r", "M", False),
        ("v1/receipts/a+b/r", "a+b", False),
        ("v1/receipts//r", "", False),
    ],
)
def test_a_device_may_ask_only_for_its_own_topics(topic: str, device: str, allowed: bool) -> None:
    assert is_receipt_topic(topic, device) is allowed


def asking(payload: Any, topic: str = "v1/telemetry/meter/M", response_topic: str | None = OWN) -> mqtt5.PublishPacket:
    content = payload if isinstance(payload, bytes) else json.dumps(payload).encode()
    return mqtt5.PublishPacket(topic, content, response_topic=response_topic, correlation_data=b"42")


def decoded(*packets: mqtt5.PublishPacket, keep: int = 1_000_000) -> Batch:
    batch = Batch()
    Decoder(Rules(), keep_limit=KeepLimit(keep)).decode(packets, batch, NOW.timestamp())
    return batch


def read(receipt: Receipt) -> dict[str, Any]:
    """As its device does, once nothing of it is open."""
    assert not receipt.rows
    return dict(json.loads(receipt.payload))


def readings_told(told: dict[str, Any]) -> int:
    return int(told["stored"] + told["repeated"] + told["conflict"] + len(told["refused"]) + told.get("omitted", 0))


def of_meter(seconds: float = 0, **changes: Any) -> dict[str, Any]:
    return meter_reading("M", NOW - timedelta(seconds=seconds), **changes)


def test_a_reading_that_nothing_speaks_against_is_told_as_stored() -> None:
    batch = decoded(asking(of_meter()))
    (receipt,) = batch.complete_receipts({}, {})
    assert (receipt.topic, receipt.correlation_data) == (OWN, b"42")
    assert receipt.payload == b'{"stored":1,"repeated":0,"conflict":0,"refused":[]}'
    assert batch.complete_receipts({}, {}) == []


def test_each_reading_of_an_array_is_told_in_its_place() -> None:
    items = [of_meter(index) for index in range(6)]
    refused = [items[0] | {"voltage": -1}, "nonsense", items[1], items[2], of_meter(-3600), items[3], items[4], None]
    batch = decoded(asking(refused))
    rows = batch.rows["meter"]
    conflict = Refusal("", b"", "conflict", "other values", 0.0)
    swallowed = Refusal("", b"", "database_refused", "a trigger", 0.0)
    (receipt,) = batch.complete_receipts({id(rows[1]): None, id(rows[2]): conflict, id(rows[3]): swallowed}, {})
    told = read(receipt)
    assert (told["stored"], told["repeated"], told["conflict"]) == (1, 1, 1)
    assert [(each["index"], each["code"]) for each in told["refused"]] == [
        (0, "invalid_value"),
        (1, "invalid_shape"),
        (4, "clock_skew"),
        (6, "database_refused"),
        (7, "invalid_shape"),
    ]
    assert "voltage" in told["refused"][0]["reason"]
    assert told["refused"][3]["reason"] == "a trigger"


@pytest.mark.parametrize(
    ("payload", "topic", "code"),
    [
        (b"", "v1/telemetry/meter/M", "empty"),
        (b"{", "v1/telemetry/meter/M", "invalid_json"),
        (b"1" * 1_000_001, "v1/telemetry/meter/M", "too_large"),
        ({"meterId": "M"}, "v1/telemetry/meter/M", "invalid_shape"),
        (of_meter(), "v1/telemetry/heater/M", "unknown_topic"),
        (meter_reading("N", NOW), "v1/telemetry/meter/M", "id_mismatch"),
        (of_meter(90 * 86_400), "v1/telemetry/meter/M", "too_old"),
    ],
)
def test_a_message_that_is_no_reading_is_told_why(payload: Any, topic: str, code: str) -> None:
    (receipt,) = decoded(asking(payload, topic)).complete_receipts({}, {})
    told = read(receipt)
    assert [(each["index"], each["code"]) for each in told["refused"]] == [(0, code)]
    assert told["refused"][0]["reason"]


def test_a_device_hears_why_also_where_nothing_of_it_is_kept() -> None:
    (receipt,) = decoded(asking([of_meter(voltage=-1), 1]), keep=0).complete_receipts({}, {})
    assert [each["code"] for each in read(receipt)["refused"]] == ["invalid_value", "invalid_shape"]


@pytest.mark.parametrize("item", [None, of_meter(voltage=-1), of_meter(-3600)], ids=["shape", "value", "clock"])
def test_a_receipt_lists_a_bounded_part_and_counts_the_rest(item: object) -> None:
    batch = decoded(asking([of_meter(), *[item] * 1000]), keep=10)
    (receipt,) = batch.complete_receipts({}, {})
    told = read(receipt)
    assert (told["stored"], len(told["refused"]), told["omitted"]) == (1, REFUSED_LISTED_MAX, 900)
    assert all(len(each["reason"]) <= REASON_CHARACTERS_MAX for each in told["refused"])
    assert readings_told(told) == batch.received == 1001


def test_what_a_clock_refused_and_takes_after_all_is_told_as_stored() -> None:
    batch, decoder = Batch(), Decoder(Rules(), keep_limit=KeepLimit(1000))
    ahead = [of_meter(-3600 - index) for index in range(150)]
    packets = [asking(of_meter(-7200)), asking([of_meter(1), *ahead, of_meter(voltage=-1)])]
    decoder.decode(packets, batch, NOW.timestamp())
    decoder.judge_again(batch, NOW.timestamp() + 7000)
    first, second = batch.complete_receipts({}, {})
    assert read(first) == {"stored": 1, "repeated": 0, "conflict": 0, "refused": []}
    told = read(second)
    assert (told["stored"], readings_told(told)) == (151, 152)


def test_rows_that_wait_for_a_lock_hold_up_only_their_own_receipt() -> None:
    batch = decoded(asking([of_meter(1), of_meter(2)]), asking(of_meter(3)), asking(of_meter(4)))
    rows = batch.rows["meter"]
    held = {"meter": [rows[1], rows[3]]}
    (at_once,) = batch.complete_receipts({id(rows[0]): None}, held)
    assert read(at_once)["stored"] == 1
    rest = batch.rest(held)
    batch.forget()
    assert [len(receipt.rows) for receipt in rest.receipts] == [1, 1]
    (array,) = rest.complete_receipts({id(rows[1]): None}, {"meter": [rows[3]]})
    assert (read(array)["repeated"], read(array)["stored"]) == (2, 0)
    (last,) = rest.complete_receipts({}, {})
    assert read(last)["stored"] == 1


def test_only_those_who_ask_for_their_own_topic_are_told() -> None:
    batch = Batch()
    packets = [
        asking(of_meter(1), response_topic=None),
        asking(of_meter(2), response_topic="v1/receipts/N/r"),
        asking(vehicle_reading("V", NOW), "v1/telemetry/vehicle/V", "v1/receipts/V/r"),
        asking(of_meter(3), response_topic=None),
    ]
    received = Decoder(Rules(), keep_limit=KeepLimit(1)).decode(packets, batch, NOW.timestamp())
    assert received.receipts_ignored == 1
    assert [receipt.topic for receipt in batch.receipts] == ["v1/receipts/V/r"]
    assert batch.receipts[0].rows == [(0, batch.rows["vehicle"][0])]
    assert [len(rows) for rows in batch.rows.values()] == [3, 1]


def test_what_a_device_chose_of_a_receipt_counts_for_the_memory_that_is_pending() -> None:
    packet = mqtt5.PublishPacket("v1/telemetry/meter/M", b"{}", response_topic=OWN, correlation_data=b"c" * 60_000)
    assert decoded(packet).payload_bytes == len(b"{}") + len(OWN) + 60_000


ASKED = st.sampled_from([None, "v1/receipts/M/r", "v1/receipts/V/r"])


@settings(max_examples=examples(20))
@given(st.lists(st.tuples(TOPICS, payloads, ASKED), max_size=4))
def test_whoever_asks_is_treated_as_everybody_and_told_of_every_reading(sent: list[tuple[str, bytes, Any]]) -> None:
    asked = decoded(*(asking(payload, topic, response) for topic, payload, response in sent))
    plain = decoded(*(asking(payload, topic, None) for topic, payload, _ in sent))
    assert (asked.rows, asked.refusals, asked.received) == (plain.rows, plain.refusals, plain.received)
    assert [(one.topic, one.payload, one.code, one.reason) for one in asked.rejected] == [
        (one.topic, one.payload, one.code, one.reason) for one in plain.rejected
    ]
    due = [sum_of(topic, payload) for topic, payload, response in sent if response == _own(topic)]
    told = [read(receipt) for receipt in asked.complete_receipts({}, {})]
    assert [readings_told(each) for each in told] == due


def _own(topic: str) -> str:
    return f"v1/receipts/{topic.rpartition('/')[2]}/r"


def sum_of(topic: str, payload: bytes) -> int:
    """How many readings a message holds."""
    return decoded(asking(payload, topic, None)).received
