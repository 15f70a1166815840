"""Path and query parameters: taken as the contract says, or refused by name."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from urllib.parse import quote

import pytest
from hypothesis import given
from hypothesis import strategies as st
from starlette.requests import Request

from analytics_api.http.errors import InvalidParameterError, Problem
from analytics_api.http.parameters import Window, cursor, device_id, limit, limit_given, moment, whole_number, window

NOW = datetime(2026, 1, 31, 14, tzinfo=UTC)


def request(query: str = "", **path_params: str) -> Request:
    return Request({"type": "http", "query_string": query.encode(), "path_params": path_params, "headers": []})


def refused_field(query: str) -> str:
    with pytest.raises(InvalidParameterError) as caught:
        window(request(query), NOW)
    (problem,) = caught.value.problems
    assert problem.message
    assert str(caught.value).startswith(problem.field)
    return problem.field


@pytest.mark.parametrize("text", ["A", "a-Z.0_9:x", "VEH-001", "x" * 100])
def test_ids_of_the_contract_are_taken(text: str) -> None:
    assert device_id(request(vehicleId=text), "vehicleId") == text


@pytest.mark.parametrize("text", ["", "x" * 101, "a b", "a\n", "\0", "ä", "a/b", "٣", "'; DROP TABLE x; --"])
def test_other_ids_are_refused_by_the_name_of_their_parameter(text: str) -> None:
    with pytest.raises(InvalidParameterError) as caught:
        device_id(request(meterId=text), "meterId")
    assert caught.value.problems == (Problem("meterId", "must be 1 to 100 characters of A-Z a-z 0-9 . _ : -"),)


@pytest.mark.parametrize(
    ("query", "hours", "end"),
    [
        ("", 24, NOW),
        ("hours=1", 1, NOW),
        ("hours=744", 744, NOW),
        ("hours=024", 24, NOW),
        ("other=1&other=2", 24, NOW),
        ("end=2026-01-31T14:00:00Z", 24, NOW),
        ("end=2026-01-31T15:00:00%2B01:00", 24, NOW),
        ("end=2026-01-31T15:00:00+01:00", 24, NOW),  # a + that is not encoded arrives as a space
        ("end=2026-01-31T08:30:00.123456-05:30&hours=2", 2, NOW.replace(microsecond=123456)),
        ("end=9999-12-31T23:59:59Z", 24, datetime(9999, 12, 31, 23, 59, 59, tzinfo=UTC)),
    ],
)
def test_windows(query: str, hours: int, end: datetime) -> None:
    assert window(request(query), NOW) == Window(end - timedelta(hours=hours), end)


@pytest.mark.parametrize(
    "value", ["", "0", "745", "1000", "-1", "+1", "1.0", "1e2", " 1", "1 ", "0x1", "1_0", "٣", "NaN", "9" * 5000]
)
def test_hours_outside_the_contract_are_refused(value: str) -> None:
    assert refused_field(f"hours={quote(value)}") == "hours"


@pytest.mark.parametrize(
    "value",
    [
        "",
        "now",
        "1769868000",
        "2026-01-31",
        "2026-01-31T14:00:00",
        "2026-01-31 14:00:00Z",
        "2026-01-31T14:00Z",
        "2026-02-31T14:00:00Z",
        "2026-01-31T24:00:01Z",
        "2026-01-31T14:00:60Z",
        "2026-01-31T14:00:00.Z",
        "2026-01-31T14:00:00+25:00",
        "0000-01-01T00:00:00Z",
        "0001-01-01T00:00:00Z",
        "0001-01-01T00:00:00+14:00",
        "9999-12-31T23:59:59-14:00",
        "٢٠٢٦-01-31T14:00:00Z",
    ],
)
def test_ends_that_are_no_moment_are_refused(value: str) -> None:
    assert refused_field(f"end={quote(value)}") == "end"


@pytest.mark.parametrize("query", ["hours=1&hours=1", "end=2026-01-31T14:00:00Z&end=x", "hours&hours"])
def test_a_parameter_given_twice_is_refused(query: str) -> None:
    assert refused_field(query) == query.partition("=")[0].partition("&")[0]


@given(query=st.text(alphabet=st.sampled_from("hours=end&%0123456789abT:-+Z. \x00ÿ;"), max_size=60))
def test_no_query_gets_past_both_outcomes(query: str) -> None:
    refused: set[str] = set()
    hours = timedelta(hours=24)
    try:
        found = window(Request({"type": "http", "query_string": query.encode("latin-1")}), NOW)
        hours = found.end - found.start
    except InvalidParameterError as error:
        refused = {problem.field for problem in error.problems}
    assert refused <= {"hours", "end"}
    assert timedelta(hours=1) <= hours <= timedelta(hours=744)


def test_limits_and_cursors() -> None:
    assert limit(request()) == 100
    assert limit_given(request()) is None
    assert limit(request("limit=1")) == 1
    assert limit(request("limit=1000")) == 1000
    assert cursor(request()) is None
    assert cursor(request(f"cursor={'x' * 1000}")) == "x" * 1000
    assert moment(request(), "from") is None
    assert whole_number(request("n=007"), "n", 7, 7) == 7


@pytest.mark.parametrize("value", ["", "0", "1001", "-1", "1.0", "%00", "%FF", "%ZZ", "٣", "9" * 5000])
def test_limits_outside_the_contract_are_refused(value: str) -> None:
    with pytest.raises(InvalidParameterError, match=r"^limit must be a whole number from 1 to 1000$"):
        limit(request(f"limit={value}"))


@pytest.mark.parametrize("query", ["cursor=", f"cursor={'x' * 1001}", "cursor=a&cursor=a"])
def test_cursors_that_cannot_be_ours_are_refused(query: str) -> None:
    with pytest.raises(InvalidParameterError, match=r"^cursor "):
        cursor(request(query))


@pytest.mark.parametrize("value", ["2026-01-31T14:00:00.1234567Z", "2026-01-31t15:00:00.123456999+01:00"])
def test_a_moment_is_rfc_3339_in_full_as_over_mqtt(value: str) -> None:
    found = moment(request(f"end={quote(value)}"), "end")
    assert found == datetime(2026, 1, 31, 14, 0, 0, 123456, tzinfo=UTC)
