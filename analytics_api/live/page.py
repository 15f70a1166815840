"""The live web page at `/` and its files at `/static/`: nothing from elsewhere, no script or style inside the page."""

from __future__ import annotations

from functools import partial
from html import escape
from pathlib import Path

from starlette.requests import Request
from starlette.responses import HTMLResponse, Response
from starlette.routing import BaseRoute, Mount, Route
from starlette.staticfiles import StaticFiles
from starlette.types import Scope

from analytics_api.analytics.pairs import MeterConvention

_WEB = Path(__file__).parent.parent / "web"
_HEADERS = {
    "Cache-Control": "no-cache",
    "Content-Security-Policy": (
        "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self'; "
        "base-uri 'none'; form-action 'self'; frame-ancestors 'none'"
    ),
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
}


class _FreshFiles(StaticFiles):
    """A browser asks each time whether a file has changed (304 if not), so an upgrade shows at once."""

    async def get_response(self, path: str, scope: Scope) -> Response:
        response = await super().get_response(path, scope)
        response.headers.update({"Cache-Control": "no-cache", "X-Content-Type-Options": "nosniff"})
        return response


def routes(convention: MeterConvention | None = None) -> list[BaseRoute]:
    """The routes of this module; reads the page once, and tells it which meter is a vehicle's by its name."""
    html = (_WEB / "index.html").read_bytes()
    if convention:
        prefixes = (
            f'<html data-vehicle-prefix="{escape(convention.vehicle_prefix)}"'
            f' data-meter-prefix="{escape(convention.meter_prefix)}"'
        )
        html = html.replace(b"<html", prefixes.encode(), 1)
    return [Route("/", partial(page, html)), Mount("/static", _FreshFiles(directory=_WEB / "static"))]


async def page(html: bytes, _: Request) -> Response:
    """The page; what it shows, it fetches from the API itself."""
    return HTMLResponse(html, headers=_HEADERS)
