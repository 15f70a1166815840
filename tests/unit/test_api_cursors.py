"""Cursors: what was written comes back to the microsecond, and nothing else is taken."""

from __future__ import annotations

from datetime import UTC, datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import TypeAdapter

from analytics_api.http.cursors import from_microseconds, microseconds, read_cursor, write_cursor
from analytics_api.http.errors import InvalidParameterError

SHAPE: TypeAdapter[tuple[object, ...]] = TypeAdapter(tuple[str, int])
LISTING = "some list"


@given(device_id=st.text(max_size=100), number=st.integers(-(2**62), 2**62))
def test_a_key_comes_back(device_id: str, number: int) -> None:
    cursor = write_cursor(LISTING, (device_id, number))
    assert cursor.isascii()
    assert not set(cursor) & set("+/=&%# ")  # it stands in an address as it is
    assert read_cursor(LISTING, SHAPE, cursor) == (device_id, number)


@given(moment=st.datetimes(timezones=st.just(UTC)))
def test_a_moment_keeps_its_microseconds(moment: datetime) -> None:
    assert from_microseconds(microseconds(moment)) == moment


@pytest.mark.parametrize("value", [10**18, -(10**18), 10**40])
def test_a_moment_that_no_calendar_has_is_refused(value: int) -> None:
    with pytest.raises(InvalidParameterError):
        from_microseconds(value)


@pytest.mark.parametrize(
    "cursor",
    [
        "",
        "x",
        "ä",
        "\0",
        "!" * 10,
        "bnVsbA",  # null
        "W10",  # []
        write_cursor("another list", ("A", 1)),
        write_cursor(LISTING, ("A",)),
        write_cursor(LISTING, ("A", 1, 1)),
        write_cursor(LISTING, (1, "A")),
        write_cursor(LISTING, ("A" * 1_000, 1)),
    ],
)
def test_anything_else_is_refused(cursor: str) -> None:
    with pytest.raises(InvalidParameterError, match=r"^cursor "):
        read_cursor(LISTING, SHAPE, cursor)


@given(cursor=st.one_of(st.text(max_size=60), st.from_regex(r"[A-Za-z0-9_-]{0,60}", fullmatch=True)))
def test_no_text_gets_past_both_outcomes(cursor: str) -> None:
    try:
        key = read_cursor(LISTING, SHAPE, cursor)
    except InvalidParameterError:
        return
    assert write_cursor(LISTING, key).rstrip("=")  # type: ignore[arg-type]
