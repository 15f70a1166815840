"""The description and the application say the same: every route with its methods, and nothing that is not there."""

from __future__ import annotations

import asyncio
import json
import re
from typing import Any

import httpx
import pytest
from jsonschema_rs import meta
from pydantic import SecretStr, ValidationError
from starlette.applications import Starlette
from starlette.routing import Route

from analytics_api.app import create_app
from analytics_api.description import openapi, schemas
from analytics_api.description.known_parameters import KNOWN
from analytics_api.http.access import AccessRules, RulesInForce
from analytics_api.http.parameters import HOURS_MAX, LIMIT_MAX
from config.settings import Settings
from serving.places import Places

PAGE_FILES = "/api/"  # what the page at /api loads is no part of the API


@pytest.fixture(scope="module")
def app() -> Starlette:
    access = RulesInForce(AccessRules.of(Settings(), loopback_only=True))
    return create_app(Settings(), access, Places(100))


@pytest.fixture(scope="module")
def document() -> dict[str, Any]:
    return json.loads(openapi.document())


def served(app: Starlette) -> set[tuple[str, str]]:
    return {
        (method.lower(), route.path)
        for route in app.routes
        if isinstance(route, Route) and not route.path.startswith(PAGE_FILES)
        for method in route.methods or ()
        if method != "HEAD"  # as everywhere on the web, GET implies it
    }


def described(document: dict[str, Any]) -> set[tuple[str, str]]:
    return {(method, path) for path, methods in document["paths"].items() for method in methods}


def test_every_route_is_described(app: Starlette, document: dict[str, Any]) -> None:
    assert served(app) - described(document) == set()


def test_nothing_else_is_described(app: Starlette, document: dict[str, Any]) -> None:
    assert described(document) - served(app) == set()


def test_it_is_served_as_it_was_built(app: Starlette, document: dict[str, Any]) -> None:
    async def get() -> httpx.Response:
        async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://localhost") as client:
            return await client.get("/openapi.json")

    answer = asyncio.run(get())
    assert answer.status_code == 200
    assert answer.headers["content-type"] == "application/json"
    assert answer.json() == document
    assert document["openapi"].startswith("3.1.")


def test_every_reference_leads_somewhere(document: dict[str, Any]) -> None:
    text = json.dumps(document)
    names = {part.split('"')[0] for part in text.split("#/components/schemas/")[1:]}
    assert names == set(document["components"]["schemas"])
    for schema in document["components"]["schemas"].values():
        meta.validate(schema)


def test_names_of_operations_are_unique(document: dict[str, Any]) -> None:
    names = [operation["operationId"] for methods in document["paths"].values() for operation in methods.values()]
    assert len(names) == len(set(names))


def test_limits_are_those_that_are_checked(document: dict[str, Any]) -> None:
    parameters = document["paths"]["/v1/analytics/fleet/vehicles"]["get"]["parameters"]
    most = {each["name"]: each["schema"].get("maximum") for each in parameters}
    assert most["hours"] == HOURS_MAX
    assert most["limit"] == LIMIT_MAX


def test_every_path_parameter_is_described(document: dict[str, Any]) -> None:
    for path, methods in document["paths"].items():
        named = {part.strip("{}") for part in path.split("/") if part.startswith("{")}
        for operation in methods.values():
            assert {each["name"] for each in operation["parameters"] if each["in"] == "path"} == named


def test_a_field_that_no_model_names_is_refused() -> None:
    status = {"success": True, "data": {"status": "alive"}}
    schemas.AliveAnswer.model_validate(status)
    with pytest.raises(ValidationError, match="extra"):
        schemas.AliveAnswer.model_validate({**status, "more": 1})


def asked(app: Starlette, method: str, path: str, query: str) -> httpx.Response:
    async def ask() -> httpx.Response:
        async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://localhost") as client:
            address = re.sub(r"{annulmentId}", "1", path)
            address = re.sub(r"{[^}]*}", "X", address)
            headers = {"Authorization": "Bearer secret"}
            return await client.request(method, f"{address}?{query}", headers=headers)

    return asyncio.run(ask())


@pytest.mark.parametrize(("method", "path"), [*KNOWN, *(("HEAD", path) for method, path in KNOWN if method == "GET")])
def test_every_route_refuses_a_parameter_that_it_does_not_know(method: str, path: str) -> None:
    settings = Settings(api_write_tokens=SecretStr("secret"))
    app = create_app(settings, RulesInForce(AccessRules.of(settings, loopback_only=True)), Places(100))
    known = KNOWN["GET" if method == "HEAD" else method, path]
    query = "&".join(["surprise=1", "%C3%A9=2", "surprise=3", *(f"{name}=1" for name in known)])
    answer = asked(app, method, path, query)
    assert answer.status_code == 400
    if method != "HEAD":
        assert [problem["field"] for problem in answer.json()["errors"]] == ["surprise", "\\xe9"]
        assert all(name in answer.json()["message"] for name in known)


def test_a_page_leaves_its_parameters_to_its_script(app: Starlette) -> None:
    assert asked(app, "GET", "/", "vehicle=VEH-1").status_code == 200


def test_many_long_names_do_not_make_the_answer_long(app: Starlette) -> None:
    query = "&".join(f"{'x' * 300}{number}=1" for number in range(100))
    assert len(asked(app, "GET", "/v1/telemetry/meter", query).content) < 5000
