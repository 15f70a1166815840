"""The page /api in a real browser, with the network cut off: Swagger UI lists what there is and can try it."""

from __future__ import annotations

from datetime import UTC, datetime

import httpx
from playwright.sync_api import expect

from tests.api_process import MeterRow, store
from tests.browser.conftest import Visit
from tests.processes import WattlineProcess

PATIENCE_MS = 20_000
METHODS = {"get", "put", "post", "delete"}


def test_swagger_ui_lists_every_operation_and_tries_one(api: WattlineProcess, url: str, visit: Visit) -> None:
    store(url, [MeterRow("METER-001", datetime.now(UTC), 1.0, 231.0)])
    description = httpx.get(f"{api.http_url}/openapi.json").json()
    described = sorted(
        f"{method.upper()} {path}"
        for path, methods in description["paths"].items()
        for method in METHODS & methods.keys()
    )
    page = visit.page
    page.goto(f"{api.http_url}/api")
    listed = page.locator(".opblock-summary")
    expect(listed).to_have_count(len(described), timeout=PATIENCE_MS)
    shown = [
        f"{line.locator('.opblock-summary-method').inner_text()} "
        f"{line.locator('.opblock-summary-path').get_attribute('data-path')}"
        for line in listed.all()
    ]
    assert sorted(shown) == described

    operation = page.locator(".opblock-get", has=page.locator('[data-path="/v1/telemetry/meter/{meterId}/status"]'))
    operation.locator(".opblock-summary-control").click()
    operation.get_by_role("button", name="Try it out").click()
    operation.get_by_placeholder("meterId").fill("METER-001")
    operation.get_by_role("button", name="Execute").click()
    answer = operation.locator(".live-responses-table")
    expect(answer.locator(".response-col_status").last).to_contain_text("200", timeout=PATIENCE_MS)
    expect(answer.locator(".response-col_description").last).to_contain_text("METER-001")
    assert not visit.elsewhere
    assert not visit.complaints
