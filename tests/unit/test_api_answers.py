"""The form of an answer: finite numbers, UTC with milliseconds, nothing that a cache may keep."""

from __future__ import annotations

import json
import math
from datetime import UTC, datetime, timedelta, timezone

import pytest
from hypothesis import given
from hypothesis import strategies as st

from analytics_api.http.answers import answer, number, timestamp


@pytest.mark.parametrize(
    ("moment", "text"),
    [
        (datetime(2026, 1, 31, 14, tzinfo=UTC), "2026-01-31T14:00:00.000Z"),
        (datetime(2026, 1, 31, 14, 0, 0, 999_999, tzinfo=UTC), "2026-01-31T14:00:00.999Z"),
        (datetime(2026, 1, 31, 14, tzinfo=timezone(timedelta(hours=5, minutes=30))), "2026-01-31T08:30:00.000Z"),
        (datetime(33, 1, 1, tzinfo=UTC), "0033-01-01T00:00:00.000Z"),
    ],
)
def test_timestamps(moment: datetime, text: str) -> None:
    assert timestamp(moment) == text


@given(value=st.floats(allow_nan=False, allow_infinity=False))
def test_a_number_is_the_same_number_in_json(value: float) -> None:
    assert json.loads(bytes(answer(number(value)).body))["data"] == value


def test_a_whole_number_is_written_without_a_fraction() -> None:
    assert bytes(answer([number(75.0), number(-0.0), number(75.5)]).body) == b'{"success":true,"data":[75,0,75.5]}'


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_what_is_no_json_number_is_null(value: float) -> None:
    assert bytes(answer(number(value)).body) == b'{"success":true,"data":null}'


def test_no_cache_keeps_an_answer() -> None:
    response = answer({})
    assert response.headers["cache-control"] == "no-store"
    assert response.headers["content-type"] == "application/json"
