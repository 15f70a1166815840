"""The page `/api`: Swagger UI from files of our own, so that it works where there is no network.

The files are its makers', unchanged (web/vendor/swagger-ui); nothing on the page comes from anywhere else.
"""

from __future__ import annotations

from functools import partial
from pathlib import Path

from starlette.requests import Request
from starlette.responses import FileResponse, HTMLResponse, Response
from starlette.routing import BaseRoute, Route

_FILES = ("swagger-ui-bundle.js", "swagger-ui.css", "favicon-32x32.png")
_WEB = Path(__file__).parent.parent / "web"
_VENDORED = _WEB / "vendor" / "swagger-ui"
_FILE_HEADERS = {"Cache-Control": "no-cache", "X-Content-Type-Options": "nosniff"}
_HEADERS = {
    **_FILE_HEADERS,
    # Swagger UI sets its styles by script, which needs no 'unsafe-inline', and draws with data: images.
    "Content-Security-Policy": (
        "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; "
        "connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    ),
    "Referrer-Policy": "no-referrer",
}


def routes() -> list[BaseRoute]:
    """The routes of this module; reads the page once."""
    html = (_WEB / "api.html").read_bytes()
    return [
        Route("/api", partial(page, html)),
        *(Route(f"/api/{name}", partial(file, _VENDORED / name)) for name in _FILES),
    ]


async def page(html: bytes, _: Request) -> Response:
    return HTMLResponse(html, headers=_HEADERS)


async def file(path: Path, _: Request) -> Response:
    return FileResponse(path, headers=_FILE_HEADERS)
