"""The application: its routes, its middlewares, its one place for errors, and what lives as long as it."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.middleware.cors import CORSMiddleware

from analytics_api import probes
from analytics_api.analytics import fleet, links, performance
from analytics_api.analytics.pairs import PairRules
from analytics_api.database.questions import Database
from analytics_api.description import openapi, swagger
from analytics_api.description.known_parameters import refusing_unknown
from analytics_api.http.access import GuardedApp, RulesInForce
from analytics_api.http.audit import AuditedApp
from analytics_api.http.errors import EXCEPTION_HANDLERS
from analytics_api.http.metrics import MeasuredApp, build_registry
from analytics_api.live import page, stream
from analytics_api.readings import annulments, gateway, history, lists, status
from config.settings import Settings
from serving.places import Places


def create_app(settings: Settings, access: RulesInForce, places: Places) -> Starlette:
    """The app; its lifespan opens database and broker link, which need not be there yet.

    `places` has the connections of the server that it runs on. Raises SettingsError for unusable certificate files.
    """
    database = Database(settings.database_conninfo, settings.database_label)
    live = stream.Stream(
        database, silent_after=settings.silent_after_seconds, listeners_max=stream.listeners_max(places.most)
    )
    registry, http_metrics = build_registry(database, places, access.wrong)
    broker = gateway.Gateway(settings, registry)
    pairs = PairRules.of(settings)

    @asynccontextmanager
    async def lifespan(_: Starlette) -> AsyncIterator[None]:
        async with database, live, broker.running():
            yield

    app = Starlette(
        # Tried in this order, so those that are asked most come first.
        routes=refusing_unknown(
            [
                *status.routes(database),
                *lists.routes(database, settings.silent_after_seconds),
                *history.routes(database),
                *gateway.routes(broker),
                *performance.routes(database, pairs),
                *fleet.routes(database, pairs),
                *links.routes(database, pairs.convention),
                *annulments.routes(database),
                *probes.routes(database, registry),
                *stream.routes(live),
                *page.routes(pairs.convention),
                *swagger.routes(),
                *openapi.routes(),
            ]
        ),
        middleware=[
            Middleware(MeasuredApp, metrics=http_metrics),
            *_cors(settings),
            Middleware(GuardedApp, in_force=access),
            Middleware(AuditedApp, in_force=access),
        ],
        exception_handlers=EXCEPTION_HANDLERS,
        lifespan=lifespan,
    )
    app.router.redirect_slashes = False  # an address that is not the contract's is unknown, not somewhere else
    return app


def _cors(settings: Settings) -> list[Middleware]:
    """Before the guard: a preflight carries no token, and a page must be able to read why it was refused."""
    if not settings.cors_origins:
        return []
    return [
        Middleware(
            CORSMiddleware,
            allow_origins=settings.cors_origins,
            allow_methods=["GET", "HEAD", "POST", "PUT", "DELETE"],
            allow_headers=["Authorization", "Content-Type", "X-Request-ID"],
            expose_headers=["Retry-After", "X-Request-ID"],
        )
    ]
