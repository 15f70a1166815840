"""The tests' own client sees what the description does not allow: without that, it would prove nothing."""

from __future__ import annotations

from typing import Any

import httpx
import pytest
from pydantic import ValidationError

from tests.api_client import check_answer

STATUS = "http://localhost/v1/telemetry/meter/METER-001/status"
GOOD = {
    "meterId": "METER-001",
    "kwhConsumedAc": 0.1834,
    "voltage": 238,
    "lastReading": "2026-01-31T14:00:00.000Z",
    "lastUpdated": "2026-01-31T14:00:00.000Z",
}


def answer(data: object, status: int = 200, url: str = STATUS) -> httpx.Response:
    body = {"success": True, "data": data} if status == 200 else data
    return httpx.Response(status, json=body, request=httpx.Request("GET", url))


def test_what_is_described_passes() -> None:
    check_answer(answer(GOOD))
    check_answer(answer({"success": False, "message": "No.", "errors": []}, 404))


@pytest.mark.parametrize(
    "wrong",
    [
        {"voltage": "238"},
        {"voltage": True},
        {"more": 1},
        {"meterId": "M 1"},
        {"lastReading": "2026-01-31T14:00:00Z"},
        {"lastReading": None},
    ],
)
def test_what_is_not_does_not(wrong: Any) -> None:
    with pytest.raises(ValidationError):
        check_answer(answer(GOOD | wrong))


def test_an_error_in_another_form() -> None:
    with pytest.raises(ValidationError):
        check_answer(answer({"detail": "No."}, 404))


def test_success_where_nothing_is_described() -> None:
    with pytest.raises(AssertionError, match="not described"):
        check_answer(answer(GOOD, url="http://localhost/v1/telemetry/meter/METER-001"))
