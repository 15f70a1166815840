"""The README's questions, as they stand there, put to the API: each is answered, whatever day it is."""

from __future__ import annotations

import re
import subprocess
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from tests.api_client import api_client
from tests.api_process import MeterRow, VehicleRow, prepare, running_api, store

README = (Path(__file__).parents[2] / "README.md").read_text(encoding="utf-8")
COMMANDS = re.findall(r"^\| [^`|]+ \| `(curl [^`]+)`", README, re.MULTILINE)
WITH_VALUE = {"-X": "method", "-H": "header", "-d": "body"}


def request_of(command: str) -> dict[str, str]:
    """What curl would do, once a shell has read the words."""
    printed = subprocess.run(
        ["sh", "-c", command.replace("curl", r"printf '%s\0'", 1)], capture_output=True, text=True, check=True
    )
    words, asked = iter(printed.stdout.split("\0")[:-1]), {"method": "GET"}
    for word in words:
        if word in WITH_VALUE:
            asked[WITH_VALUE[word]] = next(words)
        elif not word.startswith("-"):
            asked["path"] = word.removeprefix("localhost:3000")
    if "body" in asked and asked["method"] == "GET":
        asked["method"] = "POST"
    return asked


@pytest.fixture(scope="module")
def requests() -> list[dict[str, str]]:
    return [request_of(command) for command in COMMANDS]


def test_each_is_answered(database_url: str, tmp_path: Path, requests: list[dict[str, str]]) -> None:
    prepare(database_url)
    yesterday = datetime.now(UTC).replace(hour=0, minute=0, second=0, microsecond=0) - timedelta(hours=1)
    store(
        database_url,
        [MeterRow("METER-001", yesterday, 1.0)],
        [VehicleRow("VEH-001", yesterday, 0.9)],
    )
    assert {request["method"] for request in requests} == {"GET", "PUT", "DELETE", "POST"}
    with (
        running_api(tmp_path, database_url, API_WRITE_LOOPBACK="1") as process,
        api_client(process.http_url, timeout=30) as client,
    ):
        for request in requests:
            if request["method"] == "POST":
                continue  # it needs a broker: test_api_gateway.py
            headers = dict([request["header"].split(": ")]) if "header" in request else {}
            asked = client.stream(request["method"], request["path"], headers=headers, content=request.get("body"))
            with asked as answer:
                assert answer.status_code == 200, request
            if request["method"] == "PUT":  # from today on: what was yesterday stays
                params = {"end": (yesterday + timedelta(minutes=30)).isoformat()}
                data = client.get("/v1/analytics/performance/VEH-001", params=params).json()["data"]
                assert (data["efficiencyPercent"], data["quality"]["reasons"]) == ("90.00%", [])
