"""The pages in a real browser: they show what the API says, and ask nobody else."""

from __future__ import annotations

from datetime import UTC, datetime

from playwright.sync_api import expect

from tests.api_process import MeterRow, VehicleRow, store
from tests.browser.conftest import Visit
from tests.processes import WattlineProcess


def test_the_live_page_follows_the_readings(api: WattlineProcess, url: str, visit: Visit) -> None:
    store(url, [MeterRow("METER-001", datetime.now(UTC), 1.0, 231.0)], [VehicleRow("VEH-001", datetime.now(UTC), 0.9)])
    visit.page.goto(api.http_url)
    expect(visit.page.locator("#meter [data-field=voltage]")).to_have_text("231.0 V", timeout=15_000)
    store(url, [MeterRow("METER-001", datetime.now(UTC), 1.0, 228.5)])
    expect(visit.page.locator("#meter [data-field=voltage]")).to_have_text("228.5 V", timeout=15_000)
    assert not visit.elsewhere
    assert not visit.complaints


def test_swagger_ui_starts_without_any_other_server(api: WattlineProcess, visit: Visit) -> None:
    response = visit.page.goto(f"{api.http_url}/api")
    assert response is not None
    assert response.status == 200
    expect(visit.page.locator("#swagger-ui .swagger-ui")).to_be_visible(timeout=20_000)
    assert not visit.elsewhere
    # The description is another module's; whatever it answers, the page itself breaks no rule of its policy.
    assert not [complaint for complaint in visit.complaints if "Content Security Policy" in complaint]
