"""What can go wrong with a request, and the one place where it becomes a response.

The code that knows what is wrong raises one of these; nothing else builds an error response. No message repeats what a
client sent unless it was validated, and none holds a secret.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from http import HTTPStatus
from typing import Any

from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Match, Route

from analytics_api.http.answers import json_response

RETRY_AFTER_SECONDS = 2
NAMES_SHOWN, NAME_CHARACTERS_SHOWN = 10, 100


@dataclass(frozen=True)
class Problem:
    """One wrong field or parameter: an entry of `errors`."""

    field: str
    message: str


class ApiError(Exception):
    """A request that gets an error answer: one line for a person, and the fields that are wrong."""

    status = HTTPStatus.INTERNAL_SERVER_ERROR
    headers: Mapping[str, str] = {}

    def __init__(self, message: str, *problems: Problem) -> None:
        super().__init__(message)
        self.problems = problems


class InvalidParameterError(ApiError):
    """A malformed path or query parameter; the client must change it."""

    status = HTTPStatus.BAD_REQUEST

    def __init__(self, field: str, message: str) -> None:
        super().__init__(f"{field} {message}", Problem(field, message))


class UnknownParametersError(ApiError):
    """Query parameters that nobody here reads; the client must leave them out, or ask elsewhere."""

    status = HTTPStatus.BAD_REQUEST

    def __init__(self, unknown: Sequence[str], known: Sequence[str]) -> None:
        # Names are the client's invention, so they are cut and shown as plain ASCII.
        names = [ascii(name[:NAME_CHARACTERS_SHOWN])[1:-1] for name in unknown[:NAMES_SHOWN]]
        expected = f"known are {', '.join(known)}" if known else "this address has none"
        message = f"is not a parameter of this address; {expected}"
        super().__init__(
            f"{', '.join(names)}: not known here; {expected}.", *(Problem(name, message) for name in names)
        )


class NotFoundError(ApiError):
    """A well-formed id, or link, of which nothing is known."""

    status = HTTPStatus.NOT_FOUND


class UnauthorizedError(ApiError):
    """No token, or none that counts here."""

    status = HTTPStatus.UNAUTHORIZED
    headers = {"WWW-Authenticate": "Bearer"}  # noqa: RUF012 - a Mapping, declared so above


class TooManyAttemptsError(ApiError):
    """Too many wrong tokens came from this address; another may be tried in a while."""

    status = HTTPStatus.TOO_MANY_REQUESTS

    def __init__(self, seconds: int) -> None:
        super().__init__("Too many wrong tokens came from this address; no other is looked at for a while.")
        self.headers = {"Retry-After": str(seconds)}


class ForbiddenError(ApiError):
    """Not from here, whatever the request carries; only the person who runs the API can change it."""

    status = HTTPStatus.FORBIDDEN


class InvalidBodyError(ApiError):
    """A body that is not what the route takes; the client must change it."""

    status = HTTPStatus.BAD_REQUEST


class BodyTimeoutError(ApiError):
    """A body that did not end in time; the connection ends with the answer, since the rest may still come."""

    status = HTTPStatus.REQUEST_TIMEOUT
    headers = {"Connection": "close"}  # noqa: RUF012


class BodyTooLargeError(ApiError):
    """A body over the limit, of which no more is read; the connection ends with the answer."""

    status = HTTPStatus.REQUEST_ENTITY_TOO_LARGE
    headers = {"Connection": "close"}  # noqa: RUF012


class UnsupportedTypeError(ApiError):
    """A body of a type or encoding that is not taken."""

    status = HTTPStatus.UNSUPPORTED_MEDIA_TYPE
    headers = {"Accept": "application/json"}  # noqa: RUF012


class ConflictError(ApiError):
    """A well-formed change that contradicts what is stored; the message names what it collides with."""

    status = HTTPStatus.CONFLICT


class GoneError(ApiError):
    """What the request goes on with is not kept any more; the client begins again."""

    status = HTTPStatus.GONE


class UnavailableError(ApiError):
    """What the answer needs is away for the moment; the same request is worth repeating."""

    status = HTTPStatus.SERVICE_UNAVAILABLE
    headers = {"Retry-After": str(RETRY_AFTER_SECONDS)}  # noqa: RUF012 - a Mapping, declared so above


def failure_body(message: str, problems: Sequence[Problem] = ()) -> dict[str, object]:
    """The contract's form of an error."""
    return {"success": False, "message": message, "errors": [asdict(problem) for problem in problems]}


def failure_response(error: ApiError) -> Response:
    """The answer that an error is; middlewares, which no exception handler reaches, send it themselves."""
    return json_response(error.status, failure_body(str(error), error.problems), error.headers)


async def _on_api_error(_: Request, error: ApiError) -> Response:
    return failure_response(error)


async def _on_http_exception(request: Request, error: HTTPException) -> Response:
    """Starlette's own: no such route, a method that the route does not have."""
    headers = dict(error.headers or {})
    message = error.detail
    if error.status_code == HTTPStatus.NOT_FOUND:
        message = "There is nothing at this address."
    elif error.status_code == HTTPStatus.METHOD_NOT_ALLOWED:
        headers["Allow"] = ", ".join(sorted({*headers["Allow"].split(", "), *_methods_of(request)}))
        message = f"{request.method} does not work here; use {headers['Allow']}."
    return json_response(error.status_code, failure_body(message), headers)


def _methods_of(request: Request) -> set[str]:
    """The methods of all routes of an address; Starlette names those of one."""
    routes = (route for route in request.app.routes if isinstance(route, Route))
    matching = (route for route in routes if route.matches(request.scope)[0] is not Match.NONE)
    return {method for route in matching for method in route.methods or ()}


async def _on_bug(_: Request, __: Exception) -> Response:
    """Ours. The server logs the traceback; the client learns that it was not the client's doing."""
    body = failure_body("Something went wrong on our side; it has been logged.")
    return json_response(HTTPStatus.INTERNAL_SERVER_ERROR, body)


EXCEPTION_HANDLERS: Mapping[Any, Any] = {
    ApiError: _on_api_error,
    HTTPException: _on_http_exception,
    Exception: _on_bug,
}
