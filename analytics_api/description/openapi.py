"""`GET /openapi.json`: the API described by itself, in OpenAPI 3.1, from `operations`. Built when first asked for."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from functools import cache
from http import HTTPStatus

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import BaseRoute, Route

from analytics_api.description import schemas
from analytics_api.description.operations import (
    ANALYTICS,
    JSON,
    LEDGER,
    LINKS,
    OPERATIONS,
    SERVICE,
    TELEMETRY,
    Body,
    Operation,
    Parameter,
)
from analytics_api.http.errors import RETRY_AFTER_SECONDS
from config.version import wattline_version

# What the server refuses before any route sees it: no HTTP, a foreign host, an address or a head that is too long.
_ANY_REQUEST = (400, 403, 414, 431)
_RETRY_AFTER: Mapping[str, object] = {
    "Retry-After": {
        "description": "Seconds until another attempt makes sense",
        "required": True,
        "schema": {"type": "integer", "minimum": 1, "examples": [RETRY_AFTER_SECONDS]},
    }
}
_ERROR_HEADERS: Mapping[int, Mapping[str, object]] = {
    401: {"WWW-Authenticate": {"description": "Bearer", "required": True, "schema": {"type": "string"}}},
    429: _RETRY_AFTER,
    503: _RETRY_AFTER,
}


def routes() -> list[BaseRoute]:
    return [Route("/openapi.json", description)]


async def description(_: Request) -> Response:
    """The description; the first who asks waits for it, and nobody else does."""
    return Response(await asyncio.to_thread(document), media_type=JSON, headers={"Cache-Control": "no-cache"})


@cache
def document() -> bytes:
    # Half of the time that the API needs to start, and most processes are never asked.
    from openapi_pydantic import OpenAPI  # noqa: PLC0415
    from openapi_pydantic.util import construct_open_api_with_schema_class  # noqa: PLC0415

    paths: dict[str, dict[str, object]] = {}
    for operation in OPERATIONS:
        paths.setdefault(operation.path, {})[operation.method] = _operation(operation)
    bare = OpenAPI.model_validate(
        {
            "openapi": "3.1.1",
            "info": {
                "title": "wattline",
                "version": wattline_version(),
                "description": "Energy telemetry of smart meters (AC) and vehicles (DC): readings in, answers out.",
            },
            "servers": [{"url": "./"}],  # beside this description, also where a proxy serves both below a path
            "tags": [{"name": name} for name in (TELEMETRY, ANALYTICS, LINKS, LEDGER, SERVICE)],
            "paths": paths,
            "components": {
                "securitySchemes": {
                    "token": {
                        "type": "http",
                        "scheme": "bearer",
                        "description": "Reading needs one only where API_READ_TOKENS names some. Writing always does, "
                        "but on the API's own machine where API_WRITE_LOOPBACK is on.",
                    }
                }
            },
        }
    )
    whole = construct_open_api_with_schema_class(bare)
    return whole.model_dump_json(by_alias=True, exclude_none=True).encode()


def _operation(operation: Operation) -> dict[str, object]:
    errors = {*_ANY_REQUEST, *operation.errors, *((401, 429) if operation.guarded else ())}
    described: dict[str, object] = {
        "operationId": _operation_id(operation),
        "tags": [operation.tag],
        "summary": operation.summary,
        "parameters": [_parameter(parameter) for parameter in operation.parameters],
        "responses": {
            str(operation.status): {"description": operation.summary, "content": _content(operation.answers)},
            **{str(status): _failure(status) for status in sorted(errors)},
        },
    }
    if operation.body is not None:
        media = {**_media(operation.body), "example": operation.example}
        described["requestBody"] = {"required": True, "content": {JSON: media}}
    if operation.guarded:
        described["security"] = [{}, {"token": []}]
    return described


def _operation_id(operation: Operation) -> str:
    words = operation.path.replace(".json", "").replace("{", "").replace("}", "").split("/")
    return "_".join([operation.method, *(word for word in words if word)])


def _parameter(parameter: Parameter) -> dict[str, object]:
    return {
        "name": parameter.name,
        "in": parameter.place,
        "required": parameter.required or parameter.place == "path",
        "description": parameter.description,
        "schema": parameter.schema,
    }


def _failure(status: int) -> dict[str, object]:
    return {
        "description": HTTPStatus(status).phrase,
        "headers": _ERROR_HEADERS.get(status, {}),
        "content": _content({JSON: schemas.Failure}),
    }


def _content(answers: Mapping[str, Body]) -> dict[str, object]:
    return {media_type: _media(body) for media_type, body in answers.items()}


def _media(body: Body) -> dict[str, object]:
    if isinstance(body, str):
        return {"schema": {"description": body}}
    from openapi_pydantic.util import PydanticSchema  # noqa: PLC0415 - see document()

    return {"schema": PydanticSchema(schema_class=body)}
