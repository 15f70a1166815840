"""HTTP clients that hold every JSON answer of the API against the model that /openapi.json has for it.

Whatever a test asks, an answer that the description does not allow fails it: a field that nobody named, a number as
text, an error in another form. What is no JSON (CSV, pages, metrics, events) is not looked at.
"""

from __future__ import annotations

import re
from functools import cache
from typing import Any

import httpx
from pydantic import BaseModel

from analytics_api.description.operations import JSON, OPERATIONS, Operation
from analytics_api.description.schemas import Failure

OK_MOST = 299


def api_client(base_url: httpx.URL | str, **options: Any) -> httpx.Client:
    """A client whose answers are checked."""
    return httpx.Client(base_url=base_url, event_hooks={"response": [_check]}, **options)


def async_api_client(base_url: httpx.URL | str = "", **options: Any) -> httpx.AsyncClient:
    """A client for many requests at a time, its answers checked."""
    return httpx.AsyncClient(base_url=base_url, event_hooks={"response": [_check_async]}, **options)


def get(url: str, **options: Any) -> httpx.Response:
    """httpx.get, its answer checked."""
    response = httpx.get(url, **options)
    check_answer(response)
    return response


def post(url: str, **options: Any) -> httpx.Response:
    """httpx.post, its answer checked."""
    response = httpx.post(url, **options)
    check_answer(response)
    return response


def check_answer(response: httpx.Response) -> None:
    """Raises pydantic's ValidationError for JSON that is not as described; the body must have been read."""
    model = _model_of(response)
    if model is not None:
        model.model_validate_json(response.content, strict=True)


def _check(response: httpx.Response) -> None:
    if _model_of(response) is not None:
        response.read()
        check_answer(response)


async def _check_async(response: httpx.Response) -> None:
    if _model_of(response) is not None:
        await response.aread()
        check_answer(response)


def _model_of(response: httpx.Response) -> type[BaseModel] | None:
    """None where there is no JSON, or none of a form of its own."""
    if response.request.method == "HEAD" or response.headers.get("content-type") != JSON:
        return None
    if response.status_code > OK_MOST:
        return Failure
    path = response.request.url.raw_path.partition(b"?")[0].decode("ascii")
    found = [operation for operation in OPERATIONS if _is_of(operation, response.request.method, path)]
    assert len(found) == 1, f"{response.status_code} of {path}, which is not described"
    (operation,) = found
    assert response.status_code == operation.status, f"{path}: {response.status_code} is not {operation.status}"
    model = operation.answers[JSON]
    return None if isinstance(model, str) else model


def _is_of(operation: Operation, method: str, path: str) -> bool:
    return operation.method == method.lower() and _pattern(operation.path).fullmatch(path) is not None


@cache
def _pattern(template: str) -> re.Pattern[str]:
    return re.compile(re.sub(r"\\{\w+\\}", "[^/]+", re.escape(template)))
