"""Every route of the API against a real PostgreSQL, as a client sees it; and what bad requests get."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from contextlib import closing
from datetime import UTC, datetime, timedelta
from typing import Any
from urllib.parse import quote

import httpx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.api_client import api_client
from tests.api_process import MeterRow, VehicleRow, prepared_database, running_api, store
from tests.backends import Database

pytestmark = pytest.mark.citus_too

AT = datetime(2026, 1, 31, 14, 0, 0, 123_987, tzinfo=UTC)
TIMESTAMP = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z")
ROUTES = (
    "/",
    "/v1/telemetry/meter/METER-001/status",
    "/v1/telemetry/vehicle/VEH-001/status",
    "/v1/analytics/performance/VEH-001",
    "/healthz",
    "/readyz",
    "/metrics",
    "/static/live.js",
)


@pytest.fixture(scope="module")
def api(postgres_server: Database, tmp_path_factory: pytest.TempPathFactory) -> Iterator[httpx.Client]:
    """A client of an API that knows METER-001, VEH-001 and VEH-002."""
    with (
        prepared_database(postgres_server) as url,
        running_api(tmp_path_factory.mktemp("api"), url) as process,
        api_client(process.http_url, timeout=10) as client,
    ):
        minutes = [AT - timedelta(minutes=minute) for minute in range(30, -1, -1)]
        store(
            url,
            meters=[MeterRow("METER-001", at, 0.1834, 238.4) for at in minutes],
            vehicles=[VehicleRow("VEH-001", at, 0.1544, 75, 31.5) for at in minutes]
            + [VehicleRow("VEH-002", AT, 1.5, 50.5, -7.25)],
        )
        yield client
        assert "Traceback" not in process.output()


def assert_failure(response: httpx.Response, status: int, field: str | None = None) -> None:
    """An error in the contract's form, about `field` if one is given."""
    assert response.status_code == status
    assert response.headers["content-type"] == "application/json"
    body = response.json()
    assert set(body) == {"success", "message", "errors"}
    assert body["success"] is False
    assert body["message"]
    assert [error["field"] for error in body["errors"]] == ([] if field is None else [field])


def test_status_of_a_meter(api: httpx.Client) -> None:
    response = api.get("/v1/telemetry/meter/METER-001/status")
    assert response.status_code == 200
    assert response.text == (
        '{"success":true,"data":{"meterId":"METER-001","kwhConsumedAc":0.1834,"voltage":238.4,'
        '"lastReading":"2026-01-31T14:00:00.123Z","lastUpdated":"2026-01-31T14:00:00.123Z"}}'
    )


def test_status_of_a_vehicle(api: httpx.Client) -> None:
    response = api.get("/v1/telemetry/vehicle/VEH-001/status")
    assert response.status_code == 200
    assert response.text == (
        '{"success":true,"data":{"vehicleId":"VEH-001","soc":75,"kwhDeliveredDc":0.1544,"batteryTemp":31.5,'
        '"lastReading":"2026-01-31T14:00:00.123Z","lastUpdated":"2026-01-31T14:00:00.123Z"}}'
    )


def test_performance(api: httpx.Client) -> None:
    response = api.get("/v1/analytics/performance/VEH-001", params={"hours": 1, "end": "2026-01-31T15:00:00+01:00"})
    assert response.status_code == 200
    # The reading of 14:00:00.123 is past the end; 30 of the 31 are inside.
    assert response.text == (
        '{"success":true,"data":{"vehicleId":"VEH-001",'
        '"period":{"start":"2026-01-31T13:00:00.000Z","end":"2026-01-31T14:00:00.000Z",'
        '"covers":"1 hour to the second"},'
        '"totalAcConsumed":5.502,"totalDcDelivered":4.632,"efficiencyRatio":0.8419,"efficiencyPercent":"84.19%",'
        '"avgBatteryTemp":31.5,"readingsCount":{"vehicle":30,"meter":30},"healthStatus":"WARNING",'
        '"quality":{"status":"ok","coverage":{"vehicle":null,"meter":null},"reasons":[]}}}'
    )


def test_performance_of_the_last_24_hours_by_default(api: httpx.Client) -> None:
    before = datetime.now(UTC)
    data = api.get("/v1/analytics/performance/VEH-001").json()["data"]
    start, end = (datetime.fromisoformat(data["period"][name]) for name in ("start", "end"))
    assert end - start == timedelta(hours=24)
    assert before - timedelta(seconds=1) < end <= datetime.now(UTC)
    assert all(TIMESTAMP.fullmatch(data["period"][name]) for name in ("start", "end"))


def test_a_known_vehicle_without_readings_in_the_window(api: httpx.Client) -> None:
    data = api.get("/v1/analytics/performance/VEH-001", params={"end": "2020-01-01T00:00:00Z"}).json()["data"]
    del data["period"]
    assert data == {
        "vehicleId": "VEH-001",
        "totalAcConsumed": 0,
        "totalDcDelivered": 0,
        "efficiencyRatio": None,
        "efficiencyPercent": None,
        "avgBatteryTemp": None,
        "readingsCount": {"vehicle": 0, "meter": 0},
        "healthStatus": "UNKNOWN",
        "quality": {"status": "ok", "coverage": {"vehicle": None, "meter": None}, "reasons": []},
    }


def test_a_vehicle_whose_meter_is_silent_is_unknown_not_critical(api: httpx.Client) -> None:
    data = api.get("/v1/analytics/performance/VEH-002", params={"end": "2026-02-01T00:00:00Z"}).json()["data"]
    assert data["totalDcDelivered"] == 1.5
    assert data["avgBatteryTemp"] == -7.25
    assert data["readingsCount"] == {"vehicle": 1, "meter": 0}
    assert (data["efficiencyRatio"], data["efficiencyPercent"], data["healthStatus"]) == (None, None, "UNKNOWN")


@pytest.mark.parametrize(
    "path",
    [
        "/v1/telemetry/meter/METER-999/status",
        "/v1/telemetry/vehicle/METER-001/status",
        "/v1/telemetry/vehicle/veh-001/status",
        "/v1/analytics/performance/VEH-999",
        "/v1/analytics/performance/METER-001",
    ],
)
def test_an_unknown_device_is_404(api: httpx.Client, path: str) -> None:
    response = api.get(path)
    assert_failure(response, 404)
    assert path.split("/")[-2 if path.endswith("status") else -1] in response.json()["message"]


@pytest.mark.parametrize(
    "path",
    [
        "/nothing",
        "/v1",
        "/v1/telemetry/meter/METER-001",
        "/v1/telemetry/car/X/status",
        "/healthz/",
        "/static/no.js",
        "/static",
        "/static/",
        "/static/../page.py",
        "/static/%2e%2e/%2e%2e/page.py",
        "/v1/telemetry/meter//status",
    ],
)
def test_an_unknown_address_is_404(api: httpx.Client, path: str) -> None:
    assert_failure(api.get(path), 404)


@pytest.mark.parametrize("name", ["%00", "a%20b", "x" * 101, "%C3%A4", "%FF", "%0A", "VEH-001%0A", "'", "a;b"])
def test_a_malformed_id_is_400_and_named(api: httpx.Client, name: str) -> None:
    assert_failure(api.get(f"/v1/telemetry/meter/{name}/status"), 400, "meterId")
    assert_failure(api.get(f"/v1/telemetry/vehicle/{name}/status"), 400, "vehicleId")
    assert_failure(api.get(f"/v1/analytics/performance/{name}"), 400, "vehicleId")


@pytest.mark.parametrize(
    ("query", "field"),
    [
        ("hours=0", "hours"),
        ("hours=745", "hours"),
        ("hours=1&hours=2", "hours"),
        ("end=yesterday", "end"),
        ("end=0001-01-01T00:00:00Z", "end"),
        ("hours=x&end=y", "hours"),
    ],
)
def test_a_malformed_window_is_400_and_named(api: httpx.Client, query: str, field: str) -> None:
    assert_failure(api.get(f"/v1/analytics/performance/VEH-001?{query}"), 400, field)


@pytest.mark.parametrize("path", ROUTES)
@pytest.mark.parametrize("method", ["POST", "PUT", "DELETE", "PATCH", "OPTIONS", "PROPFIND"])
def test_a_wrong_method_is_405(api: httpx.Client, method: str, path: str) -> None:
    response = api.request(method, path)
    assert_failure(response, 405)
    assert response.headers["allow"] == "GET, HEAD"


@pytest.mark.parametrize("path", [*ROUTES, "/nothing", "/v1/telemetry/meter/METER-999/status"])
def test_head_is_get_without_its_body(api: httpx.Client, path: str) -> None:
    head, get = api.head(path), api.get(path)
    assert head.status_code == get.status_code
    assert head.content == b""
    assert head.headers["content-type"] == get.headers["content-type"]


def test_probes(api: httpx.Client) -> None:
    assert api.get("/healthz").json() == {"success": True, "data": {"status": "alive"}}
    ready = api.get("/readyz")
    assert ready.status_code == 200
    assert ready.json()["data"]["status"] == "ready"


def test_the_page_needs_nothing_from_elsewhere(api: httpx.Client) -> None:
    page = api.get("/")
    assert page.status_code == 200
    assert page.headers["content-type"] == "text/html; charset=utf-8"
    policy = page.headers["content-security-policy"]
    assert "default-src 'none'" in policy
    assert "unsafe" not in policy
    files = re.findall(r'(?:src|href)="(static/[^"]+)"', page.text)
    assert files
    assert not re.search(r'(?:src|href)="/', page.text)  # a proxy may serve it below a path of its own
    for path in (f"/{name}" for name in files):
        file = api.get(path)
        assert file.status_code == 200
        assert file.headers["cache-control"] == "no-cache"
        assert api.get(path, headers={"If-None-Match": file.headers["etag"]}).status_code == 304
        assert not re.search(r"https?://(?!www\.w3\.org/2000/svg)", file.text)
        assert not re.search(r"innerHTML|insertAdjacentHTML|document\.write|\beval\b", file.text)
    assert not re.search(r"https?://|<style|<script(?! type=\"module\" src=)|\son\w+=|style=", page.text)


def test_requests_are_counted_by_the_template_of_their_route(api: httpx.Client) -> None:
    def count(labels: str) -> float:
        match = re.search(
            rf"^wattline_http_requests_total\{{{re.escape(labels)}\}} (\S+)$", api.get("/metrics").text, re.MULTILINE
        )
        return float(match[1]) if match else 0.0

    found = 'method="GET",route="/v1/telemetry/meter/{meterId}/status",status="200"'
    unknown = 'method="GET",route="none",status="404"'
    odd = 'method="other",route="/healthz",status="405"'
    before = [count(found), count(unknown), count(odd)]
    api.get("/v1/telemetry/meter/METER-001/status")
    api.get("/some/path/that/nobody/knows")
    api.request("PROPFIND", "/healthz")
    assert [count(found), count(unknown), count(odd)] == [value + 1 for value in before]
    text = api.get("/metrics").text
    assert f"wattline_http_request_seconds_count{{{found}}}" in text
    assert re.search(r"^wattline_api_pool_connections [1-8]\.0$", text, re.MULTILINE)
    assert "nobody" not in text


ids = st.one_of(st.text(max_size=120), st.from_regex(r"[A-Za-z0-9._:-]{1,100}", fullmatch=True))
queries = st.lists(
    st.tuples(
        st.sampled_from(["hours", "end", "Hours", "x", ""]),
        st.one_of(st.text(max_size=30), st.integers().map(str), st.datetimes().map(lambda at: f"{at.isoformat()}Z")),
    ),
    max_size=4,
)


@settings(deadline=None, max_examples=150)
@given(template=st.sampled_from(ROUTES[1:4]), device=ids, query=queries)
def test_no_id_and_no_query_makes_an_error_of_ours(
    api: httpx.Client, template: str, device: str, query: list[tuple[str, str]]
) -> None:
    path = re.sub(r"(METER|VEH)-001", lambda _: quote(device, safe=""), template)
    response = api.get(path, params=httpx.QueryParams(tuple(query)))
    assert response.status_code in (200, 400, 404)
    assert_body_in_form(response.json())


@settings(deadline=None, max_examples=150)
@given(tail=st.text(alphabet=st.characters(min_codepoint=33, max_codepoint=126, exclude_characters="#"), max_size=80))
def test_no_address_makes_an_error_of_ours(api: httpx.Client, tail: str) -> None:
    request = api.build_request("GET", httpx.URL(api.base_url, raw_path=b"/v1/" + tail.encode()))
    response = api.send(request, stream=True)
    with closing(response):
        assert response.status_code in (200, 400, 404)
        if response.headers["content-type"].startswith("text/event-stream"):
            return  # /v1/stream, which Hypothesis finds among our own words; it has no end
        assert_body_in_form(json.loads(response.read()))


def assert_body_in_form(body: Any) -> None:
    assert set(body) == ({"success", "data"} if body["success"] else {"success", "message", "errors"})
