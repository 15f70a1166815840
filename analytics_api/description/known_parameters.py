"""Query parameters that a route does not know are refused by name: an answer to another question would look right.

What a route knows is what OPERATIONS says of it, so that the description is the declaration. Pages are left out: what
follows the ? of their address is read by their scripts.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from starlette.datastructures import QueryParams
from starlette.routing import BaseRoute, Route
from starlette.types import ASGIApp, Receive, Scope, Send

from analytics_api.description.operations import HTML, OPERATIONS
from analytics_api.http.errors import UnknownParametersError

KNOWN: Mapping[tuple[str, str], tuple[str, ...]] = {
    (operation.method.upper(), operation.path): tuple(
        parameter.name for parameter in operation.parameters if parameter.place == "query"
    )
    for operation in OPERATIONS
    if HTML not in operation.answers
}
"""The query parameters by method and path of a route."""


def refusing_unknown(routes: Iterable[BaseRoute]) -> list[BaseRoute]:
    """The routes, each refusing what it does not know."""
    checked = list(routes)
    for route in checked:
        if isinstance(route, Route):
            route.app = _Checked(route.app, route.path)
    return checked


class _Checked:
    """The app of a route behind the check."""

    def __init__(self, app: ASGIApp, path: str) -> None:
        self._app = app
        self._path = path

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["query_string"]:
            method = "GET" if scope["method"] == "HEAD" else scope["method"]
            known = KNOWN.get((method, self._path))
            if known is not None and (unknown := QueryParams(scope["query_string"]).keys() - set(known)):
                raise UnknownParametersError(sorted(unknown), known)
        await self._app(scope, receive, send)
