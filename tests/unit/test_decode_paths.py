"""Decode has a fast way and a careful one: a reading by itself and an array of it end the same, whatever they hold.

What is sent here is JSON text put together by hand, so that it holds what no JSON library writes.
"""

from __future__ import annotations

from datetime import UTC, datetime

import mqtt5
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from ingestor.batch import Batch
from ingestor.decode import Decoder
from ingestor.rejected.limit import KeepLimit
from telemetry.kinds import KINDS, METER, Kind
from telemetry.rules import Rules
from tests.examples import examples

NOW = datetime(2026, 1, 31, 14, 0, tzinfo=UTC).timestamp()
DEVICE = "A"

STRICT, LENIENT = Rules(), Rules(takes_unknown_fields=True, max_kwh={"meter": 75, "vehicle": 0.5})

numbers = st.sampled_from(
    [
        *("0", "1", "75", "0.5", "1.0", "-0", "-0.0", "-1", "1e2", "1E+2", "1e-400", "5e-324", "100", "100.0"),
        *("100.00000000000001", "1000000", "1000000.0000000001", "1e400", "-1e400", "9" * 400, "0." + "1" * 400),
        *("NaN", "Infinity", "-Infinity", "01", "+1", ".5", "1.", "0x1", "1_0"),
        *("true", "false", "null", '"1"', "[]", "{}", "[1]", '{"a":1}', '""'),
    ]
) | st.floats().map(repr)
timestamps = st.sampled_from(
    [
        '"2026-01-31T14:00:00Z"',
        '"2026-01-31T13:59:59.123456+00:00"',
        '"2026-01-31T13:59:59.1234567Z"',
        '"2026-01-31t13:59:59z"',
        '"2026-01-31T14:00:00\\u005a"',
        '"2026-02-30T14:00:00Z"',
        '"2026-01-31T24:00:00Z"',
        '"2026-01-31T14:00:60Z"',
        '"2026-01-31T14:00:00"',
        '"2026-01-31T14:06:00Z"',
        '"2025-01-31T14:00:00Z"',
        '"0001-01-01T00:00:00+23:59"',
        '"9999-12-31T23:59:59-23:59"',
        '"1769868000"',
        "1769868000",
        "null",
    ]
)
ids = st.sampled_from(
    [f'"{DEVICE}"', '"\\u0041"', '"B"', '""', '"A "', '"\\u0000"', '"\\ud800"', '"\U0001f600"', "1", "null"]
)


def texts_of(kind: Kind) -> st.SearchStrategy[str]:
    """JSON texts that are readings of a kind, or nearly: fields missing, unknown, twice, with odd values."""
    fields = {kind.id_field: ids, **{measure.name: numbers for measure in kind.measures}, "timestamp": timestamps}
    right = st.fixed_dictionaries(fields).map(lambda chosen: list(chosen.items()))
    any_field = st.sampled_from([*fields, "colour", "", "\\u0000"]).flatmap(
        lambda name: fields.get(name, numbers).map(lambda value: (name, value))
    )
    near = st.tuples(right, st.lists(any_field, max_size=2), st.integers(0, len(fields) - 1), st.booleans()).map(
        lambda parts: [*(parts[0][: parts[2]] if parts[3] else parts[0]), *parts[1]]
    )
    spaces = st.sampled_from(["", " ", "\t\r\n"])
    return st.tuples(right | near, spaces).map(
        lambda made: "{" + ",".join(f'{made[1]}"{name}":{made[1]}{value}' for name, value in made[0]) + made[1] + "}"
    )


def decoded(kind: Kind, text: str, rules: Rules = STRICT) -> tuple[list[str], list[tuple[str, str]]]:
    """Rows, and code and reason of each refusal."""
    batch = Batch()
    decoder = Decoder(rules, keep_limit=KeepLimit(1_000_000))
    payload = text.encode("utf-8", "surrogatepass")
    received = decoder.decode([mqtt5.PublishPacket(f"{kind.topic_prefix}{DEVICE}", payload)], batch, NOW)
    assert sum(received.readings.values()) == batch.readings == 1
    # As text: NaN and -0.0 count as what they are.
    rows = [repr(row) for row in [*batch.rows["meter"], *batch.rows["vehicle"]]]
    return rows, [(refusal.code, refusal.reason) for refusal in batch.rejected]


@pytest.mark.parametrize("rules", [STRICT, LENIENT], ids=["strict", "lenient"])
@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.name)
def test_a_reading_and_an_array_of_it_give_the_same_rows_and_refusals(kind: Kind, rules: Rules) -> None:
    @settings(max_examples=examples(300))
    @given(texts_of(kind))
    def check(text: str) -> None:
        (alone, refused), (in_array, refused_in_array) = decoded(kind, text, rules), decoded(kind, f"[{text}]", rules)
        assert alone == in_array
        assert [code for code, _ in refused] == [code for code, _ in refused_in_array]
        if refused and refused[0][0] != "invalid_json":  # whose reason names a column of the text
            assert refused == refused_in_array

    check()


@given(st.sampled_from(["1", "null", "true", '"a"', "{}", "NaN", "-", "", "{", '{"a"}', "nul"]))
@example("[]")
def test_what_is_no_object_is_refused_either_way(text: str) -> None:
    alone, in_array = decoded(METER, text or " "), decoded(METER, f"[{text or ' 1 1'}]")
    assert (alone[0], in_array[0]) == ([], [])
    assert len(alone[1]) == len(in_array[1]) == 1
