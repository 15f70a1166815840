"""The application: its routes, its one middleware, its one place for errors, and the database that lives as long."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from starlette.applications import Starlette
from starlette.middleware import Middleware

from analytics_api import fleet, links, page, performance, probes, status, stream, swagger
from analytics_api.database import Database
from analytics_api.errors import EXCEPTION_HANDLERS
from analytics_api.meters import MeterConvention
from analytics_api.metrics import MeasuredApp, build_registry
from config.settings import Settings


def create_app(settings: Settings) -> Starlette:
    """The app; its lifespan opens the database, which need not be there yet."""
    database = Database(settings.database_conninfo, settings.database_label)
    live = stream.Stream(database)
    registry, http_metrics = build_registry(database)
    convention = MeterConvention.parse(settings.meter_id_convention)

    @asynccontextmanager
    async def lifespan(_: Starlette) -> AsyncIterator[None]:
        async with database, live:
            yield

    app = Starlette(
        # Tried in this order, so those that are asked most come first.
        routes=[
            *status.routes(database),
            *performance.routes(database, convention),
            *fleet.routes(database, convention),
            *links.routes(database),
            *probes.routes(database, registry),
            *stream.routes(live),
            *page.routes(),
            *swagger.routes(),
        ],
        middleware=[Middleware(MeasuredApp, metrics=http_metrics)],
        exception_handlers=EXCEPTION_HANDLERS,
        lifespan=lifespan,
    )
    app.router.redirect_slashes = False  # an address that is not the contract's is unknown, not somewhere else
    return app
