"""Bodies of requests: JSON, of a bounded size, within a bounded time.

Only `application/json` is taken: it is what a form or a script of another site cannot send without being asked first
(a CORS preflight), so it is a part of the access rules as well. Nothing beyond the limit is ever held.
"""

from __future__ import annotations

import asyncio
from typing import Annotated, Any, TypeVar

from pydantic import AfterValidator, BaseModel, ValidationError
from pydantic_core import PydanticCustomError, from_json
from starlette.requests import ClientDisconnect, Request

from analytics_api.http.errors import (
    BodyTimeoutError,
    BodyTooLargeError,
    InvalidBodyError,
    Problem,
    UnsupportedTypeError,
)
from telemetry.readings import CONTAINERS_MAX, Timestamp, instant, is_overfull, problems_of
from telemetry.readings import PAYLOAD_BYTES_MAX as BODY_BYTES_MAX

# 1 MB in this time is 0.8 Mbit/s: slower than that, a device sends smaller arrays.
BODY_SECONDS_MAX = 10.0

Model = TypeVar("Model", bound=BaseModel)

BODY_BYTES_FEW = 10_000
"""For a body that is no reading: 1 KB at most where it is right; a thousand unknown fields are told in 3 ms."""

_TYPE_EXPECTED = "Send JSON: Content-Type must be application/json (in UTF-8)."


def _existing(stamp: str) -> str:
    try:
        instant(stamp)
    except (ValueError, OverflowError):
        raise PydanticCustomError("no_such_moment", "is a moment that no calendar has") from None
    return stamp


Moment = Annotated[Timestamp, AfterValidator(_existing)]
"""A field that `telemetry.readings.instant` takes."""


def validated(model: type[Model], body: object, what: str) -> Model:
    """The body as its model. Raises InvalidBodyError naming every wrong field; `what` it should be, as in "a link"."""
    try:
        return model.model_validate(body)
    except ValidationError as error:
        problems = (Problem(*problem) for problem in problems_of(error, what))
        raise InvalidBodyError(f"This is not {what}: see errors.", *problems) from None


async def json_body(request: Request, bytes_max: int = BODY_BYTES_MAX) -> Any:  # noqa: ANN401 - whatever a client sends
    """The JSON value that a request carries, in no more than `bytes_max`.

    Raises InvalidBodyError (400: not JSON, not UTF-8, empty), BodyTimeoutError (408), BodyTooLargeError (413) and
    UnsupportedTypeError (415).
    """
    _refuse_other_types(request)
    body = await _bounded_body(request, bytes_max)
    if not body:
        raise InvalidBodyError("The request has no body; a JSON value is expected.")
    if is_overfull(body):
        raise InvalidBodyError(f"The body holds more than {CONTAINERS_MAX:,} objects and arrays.")
    try:
        return from_json(body)
    except ValueError as error:  # its texts name a place and what was expected there, never the content
        raise InvalidBodyError(f"The body is not JSON: {error}") from None


def _refuse_other_types(request: Request) -> None:
    media_type, *parameters = request.headers.get("content-type", "").lower().split(";")
    if media_type.strip() != "application/json":
        raise UnsupportedTypeError(_TYPE_EXPECTED)
    for parameter in parameters:
        name, _, value = parameter.strip().partition("=")
        if name == "charset" and value.strip('"') not in ("utf-8", "utf8"):
            raise UnsupportedTypeError(_TYPE_EXPECTED)
    if request.headers.get("content-encoding", "identity").lower() != "identity":
        raise UnsupportedTypeError("Send the body as it is: no Content-Encoding is taken.")


async def _bounded_body(request: Request, bytes_max: int) -> bytes:
    too_large = BodyTooLargeError(f"The body is larger than {bytes_max} bytes, the most that is taken here.")
    # What a head announces needs no reading; the server has seen that it is a number.
    if int(request.headers.get("content-length", 0)) > bytes_max:
        raise too_large
    chunks: list[bytes] = []
    size = 0
    try:
        async with asyncio.timeout(BODY_SECONDS_MAX):
            async for chunk in request.stream():
                size += len(chunk)
                if size > bytes_max:
                    raise too_large
                chunks.append(chunk)
    except TimeoutError:
        raise BodyTimeoutError(f"The body did not end within {BODY_SECONDS_MAX:g} s.") from None
    except ClientDisconnect:  # nobody reads this; it keeps a cut connection from looking like a fault of ours
        raise InvalidBodyError("The connection ended before the body did.") from None
    return b"".join(chunks)
