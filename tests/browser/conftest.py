"""The system's own Chromium, driven headless; never a browser that a package downloads."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from playwright.sync_api import Page, Route, sync_playwright

from tests.api_process import prepared_database, running_api
from tests.backends import Broker, Database
from tests.machine import chromium
from tests.processes import WattlineProcess

# The pages are our own, and nothing leaves our origin: a container gives Chromium neither the rights that its sandbox
# wants nor much of /dev/shm.
_ARGUMENTS = ("--no-sandbox", "--disable-dev-shm-usage")


@dataclass
class Visit:
    """A page whose network ends at our origin (and at `also`), and what went wrong on it."""

    page: Page
    also: str = "data:"
    elsewhere: list[str] = field(default_factory=list)
    complaints: list[str] = field(default_factory=list)


@pytest.fixture
def url(postgres_server: Database) -> Iterator[str]:
    with prepared_database(postgres_server) as prepared:
        yield prepared


@pytest.fixture
def api_settings() -> dict[str, str]:
    """What a test sets beyond database and broker; it overrides this with `parametrize`."""
    return {}


@pytest.fixture
def api(url: str, broker: Broker, api_settings: dict[str, str], tmp_path: Path) -> Iterator[WattlineProcess]:
    with running_api(tmp_path, url, MQTT_URL=broker.url, **api_settings) as process:
        yield process


@pytest.fixture
def visit(api: WattlineProcess) -> Iterator[Visit]:
    program, trouble = chromium()
    if program is None:
        pytest.skip(trouble)
    # A browser for each test: while there is one, this thread has an event loop, and `asyncio.run` none.
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=program, headless=True, args=_ARGUMENTS)
        visit = Visit(browser.new_page())

        def only_ours(route: Route) -> None:
            if route.request.url.startswith((api.http_url + "/", "data:", visit.also)):
                route.continue_()
            else:
                visit.elsewhere.append(route.request.url)
                route.abort()

        visit.page.route("**/*", only_ours)
        visit.page.on("console", lambda m: visit.complaints.append(m.text) if m.type == "error" else None)
        visit.page.on("pageerror", lambda error: visit.complaints.append(str(error)))
        yield visit
        browser.close()
