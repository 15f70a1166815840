"""The live page in a real browser: it shows what the API says, as it changes, and asks nobody else."""

from __future__ import annotations

import re
from collections.abc import Callable
from datetime import UTC, datetime
from http import HTTPStatus
from urllib.parse import urlsplit

import httpx
import psycopg
import pytest
from playwright.sync_api import expect

from tests.api_process import MeterRow, VehicleRow, store
from tests.backends import Broker, Database
from tests.browser.conftest import Visit
from tests.prefix_proxy import PrefixProxy
from tests.processes import WattlineProcess
from tests.waiting import wait_until

PATIENCE_MS = 15_000
TOKEN = "a-token-for-reading"


def store_pair(url: str, number: int, ac_kwh: float, dc_kwh: float, voltage: float = 230.0) -> None:
    """A reading of a vehicle and one of its meter."""
    now = datetime.now(UTC)
    meter = MeterRow(f"METER-{number:03}", now, ac_kwh, voltage)
    store(url, [meter], [VehicleRow(f"VEH-{number:03}", now, dc_kwh)])


def test_a_posted_reading_appears_on_the_page(
    api: WattlineProcess, url: str, broker: Broker, visit: Visit, start_wattline: Callable[..., WattlineProcess]
) -> None:
    start_wattline("ingest", DATABASE_URL=url, MQTT_URL=broker.url).wait_ready()

    def post(voltage: float) -> None:
        reading = {"meterId": "METER-001", "kwhConsumedAc": 0.2, "voltage": voltage}
        answer = httpx.post(
            f"{api.http_url}/v1/telemetry/meter", json={**reading, "timestamp": datetime.now(UTC).isoformat()}
        )
        assert answer.status_code == 202, answer.text

    post(231.0)
    # Accepted is not stored yet, and a browser complains about a 404.
    status = f"{api.http_url}/v1/telemetry/meter/METER-001/status"
    wait_until(lambda: httpx.get(status).status_code == HTTPStatus.OK, 10, "the first reading is stored")
    visit.page.goto(f"{api.http_url}/?vehicle=&meter=METER-001")
    voltage = visit.page.locator("#meter [data-field=voltage]")
    expect(voltage).to_have_text("231.0 V", timeout=PATIENCE_MS)
    expect(visit.page.locator("#connection-text")).to_have_text("Live", timeout=PATIENCE_MS)
    post(228.5)
    expect(voltage).to_have_text("228.5 V", timeout=PATIENCE_MS)
    expect(visit.page.locator("#changed-list li").first).to_contain_text("228.5 V · 0.2000 kWh")
    assert not visit.elsewhere
    assert not visit.complaints


def test_the_fleet_is_counted_and_its_worst_vehicle_can_be_chosen(api: WattlineProcess, url: str, visit: Visit) -> None:
    store_pair(url, 1, 1.0, 0.9, 231.0)
    store_pair(url, 2, 1.0, 0.8)
    store_pair(url, 3, 1.0, 0.5, 229.5)
    page = visit.page
    page.goto(api.http_url)
    for field, text in (
        ("meters", "3"), ("vehicles", "3"), ("silent", "0"), ("efficiency", "73.33 %"),
        ("healthy", "1"), ("warning", "1"), ("critical", "1"), ("unknown", "0"),
    ):  # fmt: skip
        expect(page.locator(f"#fleet [data-field={field}]")).to_have_text(text, timeout=PATIENCE_MS)
    expect(page.locator("#worst-list .id")).to_have_text(["VEH-003", "VEH-002", "VEH-001"], timeout=PATIENCE_MS)
    page.locator("#worst-list button").first.click()
    expect(page.locator("#vehicle [data-field=id]")).to_have_text("VEH-003")
    expect(page.locator("#health [data-field=health]")).to_have_text("CRITICAL", timeout=PATIENCE_MS)
    # Its meter is found by its name.
    expect(page.locator("#meter [data-field=voltage]")).to_have_text("229.5 V", timeout=PATIENCE_MS)
    store_pair(url, 4, 1.0, 0.9)
    expect(page.locator("#fleet [data-field=vehicles]")).to_have_text("4", timeout=PATIENCE_MS)
    assert not visit.elsewhere
    assert not visit.complaints


def test_figures_that_cannot_be_right_are_told_in_words(api: WattlineProcess, url: str, visit: Visit) -> None:
    store_pair(url, 1, 1.0, 1.8)
    page = visit.page
    page.goto(api.http_url)
    quality = page.locator("#performance [data-field=quality]")
    expect(quality).to_have_text(re.compile("impossible: more energy came out than went in"), timeout=PATIENCE_MS)
    expect(page.locator("#health [data-field=health]")).to_have_text("UNKNOWN")
    expect(page.locator("#worst-list .state")).to_have_text("UNKNOWN · impossible", timeout=PATIENCE_MS)
    store_pair(url, 1, 2.0, 1.0)
    expect(quality).to_have_text("", timeout=PATIENCE_MS)
    assert not visit.complaints


@pytest.mark.parametrize("api_settings", [{"API_READ_TOKENS": TOKEN}])
def test_the_page_asks_for_a_token_and_keeps_it_for_this_tab_alone(
    api: WattlineProcess, url: str, visit: Visit
) -> None:
    store_pair(url, 1, 1.0, 0.9, 231.0)
    page = visit.page
    page.goto(api.http_url)
    field, why = page.locator("#token"), page.locator("#token-why")
    expect(why).to_have_text(re.compile("to those who have a token"), timeout=PATIENCE_MS)
    field.fill("a-wrong-one")
    field.press("Enter")
    expect(why).to_have_text(re.compile("This token does not allow reading"), timeout=PATIENCE_MS)
    expect(field).to_be_visible()
    field.fill(TOKEN)
    field.press("Enter")
    expect(page.locator("#meter [data-field=voltage]")).to_have_text("231.0 V", timeout=PATIENCE_MS)
    expect(page.locator("#connection-text")).to_have_text("Live", timeout=PATIENCE_MS)
    expect(page.locator("#worst-list .id")).to_have_text(["VEH-001"], timeout=PATIENCE_MS)
    expect(field).to_be_hidden()
    assert TOKEN not in page.content() + page.url
    assert page.evaluate("[Object.values(sessionStorage), localStorage.length, document.cookie]") == [[TOKEN], 0, ""]
    assert not visit.elsewhere
    assert not [complaint for complaint in visit.complaints if "401 (Unauthorized)" not in complaint]


def test_a_lost_server_is_told_in_words_and_found_again(api: WattlineProcess, url: str, visit: Visit) -> None:
    store_pair(url, 1, 1.0, 0.9, 231.0)
    page = visit.page
    page.goto(api.http_url)
    connection, voltage = page.locator("#connection-text"), page.locator("#meter [data-field=voltage]")
    expect(connection).to_have_text("Live", timeout=PATIENCE_MS)
    expect(voltage).to_have_text("231.0 V", timeout=PATIENCE_MS)
    api.kill()
    expect(connection).to_have_text(re.compile(r"Trying again in \d+ s\."), timeout=PATIENCE_MS)
    expect(voltage).to_have_text("231.0 V")  # what was there stays, faded
    store_pair(url, 1, 1.0, 0.9, 227.0)
    api.start()
    expect(connection).to_have_text("Live", timeout=PATIENCE_MS)
    expect(voltage).to_have_text("227.0 V", timeout=PATIENCE_MS)
    assert not visit.elsewhere


def test_a_database_that_is_away_is_told_in_words(
    api: WattlineProcess, url: str, postgres_server: Database, visit: Visit
) -> None:
    page, name = visit.page, urlsplit(url).path[1:]
    page.goto(f"{api.http_url}/?vehicle=&meter=")
    connection = page.locator("#connection-text")
    expect(connection).to_have_text("Live", timeout=PATIENCE_MS)
    with psycopg.connect(postgres_server.url_of("postgres"), autocommit=True) as administrator:
        administrator.execute(f"ALTER DATABASE {name} ALLOW_CONNECTIONS false".encode())
        administrator.execute("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = %s", [name])
        expect(connection).to_have_text(re.compile(r"Waiting for it to return\.$"), timeout=PATIENCE_MS)
        administrator.execute(f"ALTER DATABASE {name} ALLOW_CONNECTIONS true".encode())
    expect(connection).to_have_text("Live", timeout=PATIENCE_MS)


def test_what_comes_from_outside_is_text(api: WattlineProcess, visit: Visit) -> None:
    page = visit.page
    page.goto(f"{api.http_url}/?vehicle=%3Cimg%20src%3Dx%3E&meter=%3Cb%3Ehere")
    expect(page.locator("#vehicle [data-field=id]")).to_have_text("<img src=x>")
    expect(page.locator("#meter [data-field=problem]")).to_have_text(re.compile("meterId"), timeout=PATIENCE_MS)
    assert page.locator("main img, main b").count() == 0


def test_events_are_whole_however_they_come(api: WattlineProcess, visit: Visit) -> None:
    visit.page.goto(f"{api.http_url}/?vehicle=&meter=")
    text = (
        'retry: 500\n\n: still here\n\nevent: fleet\nid: 1\ndata: {"a":\ndata: 1}\n\n'
        "data:two\n\nevent: none\n\ndata: 3\n\n: end\n\n:"
    )
    events = [("fleet", '{"a":\n1}'), ("message", "two"), ("message", "3")]
    for line_end in ("\n", "\r\n", "\r"):
        sent = text.replace("\n", line_end)
        for size in (1, 2, 3, 7, len(sent)):
            heard = visit.page.evaluate(
                """async (pieces) => {
                    const { EventParser } = await import("/static/events.js");
                    const parser = new EventParser();
                    return [pieces.flatMap((piece) => parser.push(piece)), parser.retryMs];
                }""",
                [sent[start : start + size] for start in range(0, len(sent), size)],
            )
            assert heard == [[{"name": name, "data": data} for name, data in events], 500], (line_end, size)
    assert not visit.complaints


def test_it_works_below_a_path_of_a_proxy(api: WattlineProcess, url: str, visit: Visit) -> None:
    store_pair(url, 1, 1.0, 0.9, 231.0)
    with PrefixProxy(api.http_port) as proxy:
        visit.also = f"{proxy.url}/"
        page = visit.page
        page.goto(f"{proxy.url}/")
        expect(page.locator("#fleet [data-field=meters]")).to_have_text("1", timeout=PATIENCE_MS)
        expect(page.locator("#connection-text")).to_have_text("Live", timeout=PATIENCE_MS)
        page.locator("#worst-list button", has_text="VEH-001").click()
        expect(page.locator("#vehicle [data-field=id]")).to_have_text("VEH-001", timeout=PATIENCE_MS)
        assert page.url.startswith(f"{proxy.url}/?")
        expect(page.locator("#performance [data-field=percent]")).to_contain_text("90", timeout=PATIENCE_MS)
        page.locator("a.brand").click()
        expect(page.locator("#fleet [data-field=meters]")).to_have_text("1", timeout=PATIENCE_MS)
        page.goto(f"{proxy.url}/api")
        operation = page.locator(".opblock-get", has=page.locator('[data-path="/v1/telemetry/meter"]'))
        operation.locator(".opblock-summary-control").click(timeout=PATIENCE_MS)
        operation.get_by_role("button", name="Try it out").click()
        operation.get_by_role("button", name="Execute").click()
        answer = operation.locator(".live-responses-table .response-col_status").last
        expect(answer).to_contain_text("200", timeout=PATIENCE_MS)
        assert not visit.elsewhere
        assert not visit.complaints
        page.close()  # the proxy ends once its streams have
