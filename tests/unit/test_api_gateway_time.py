"""Whatever 1 MB of JSON holds, the event loop is not held up by it (CPU time, so that other load does not count)."""

from __future__ import annotations

import asyncio
import json
import time
from typing import cast

import pytest

from analytics_api.http.errors import InvalidBodyError
from analytics_api.readings.gateway import _by_device, _validated_array
from telemetry.kinds import METER
from telemetry.readings import is_overfull, without_surplus
from telemetry.rules import Rules
from tests.devices import meter_reading

ROUNDS = 3
HELD_UP_SECONDS_MAX = 0.06
RULES = Rules()
WINDOW = RULES.window(time.time())
GOOD = meter_reading("M")
MANY_FIELDS = GOOD | {f"f{number}": number for number in range(80_000)}


async def held_up_seconds(items: list[object]) -> float:
    """The longest that an array holds up the event loop, from the parsed JSON to the messages."""
    longest = 0.0
    done = False

    async def look_on() -> None:
        nonlocal longest
        before = time.thread_time()
        while not done:
            await asyncio.sleep(0)
            now = time.thread_time()
            longest, before = max(longest, now - before), now

    async def work() -> None:
        nonlocal done
        try:
            await _by_device(METER, await _validated_array(RULES, METER, items, WINDOW))
        except InvalidBodyError as error:
            assert error.problems  # noqa: PT017 - both ends are fine
        done = True

    await asyncio.gather(look_on(), work())
    return longest


@pytest.mark.parametrize(
    "items",
    [
        [MANY_FIELDS],
        [{}] * 49_000,
        [1] * 490_000,
        [GOOD] * 12_000,
        [GOOD | {"meterId": f"M-{number}"} for number in range(9_000)],
        [GOOD] * 8_000 + [{}] * 40_000,
        [GOOD | {"meterId": "x" * 900_000}],
        [GOOD | {"timestamp": "2026-01-31T14:00:00." + "0" * 900_000}],
    ],
    ids=[
        "unknown fields",
        "empty objects",
        "numbers",
        "readings",
        "devices",
        "readings and rubbish",
        "id",
        "timestamp",
    ],
)
def test_no_array_holds_up_the_others(items: list[object]) -> None:
    assert min(asyncio.run(held_up_seconds(items)) for _ in range(ROUNDS)) < HELD_UP_SECONDS_MAX


def test_surplus_fields_are_left_out_and_the_reading_stays_wrong() -> None:
    kept = cast("dict[str, object]", without_surplus("meter", MANY_FIELDS))
    assert GOOD.items() < kept.items()
    assert len(kept) == len(GOOD) + 10
    for item in (GOOD, GOOD | {"one": 1}, [1], "text", None):
        assert without_surplus("meter", item) is item


def test_a_payload_full_of_readings_is_not_overfull() -> None:
    assert not is_overfull(json.dumps([GOOD] * 12_800).encode())
    assert is_overfull(b"[" * 60_000)
