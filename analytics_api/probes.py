"""`/healthz`: the process lives. `/readyz`: it can serve, or why it cannot. `/metrics`: what it has done so far."""

from __future__ import annotations

from functools import partial
from importlib.resources import files

from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.exposition import CONTENT_TYPE_LATEST
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import BaseRoute, Route

from analytics_api.database.questions import Database
from analytics_api.http.answers import answer
from analytics_api.http.errors import Problem, UnavailableError

SCHEMA_VERSION = "SELECT max(version) FROM schema_migrations"


def routes(database: Database, registry: CollectorRegistry) -> list[BaseRoute]:
    return [
        Route("/healthz", healthz),
        Route("/readyz", partial(readyz, database, schema_version_known())),
        Route("/metrics", partial(metrics, registry)),
    ]


def schema_version_known() -> int:
    """The newest migration that came with this program."""
    names = [entry.name for entry in files("ingestor.schema").iterdir() if entry.name.endswith(".sql")]
    return int(max(names)[:4])


async def healthz(_: Request) -> Response:
    """Asks nobody: a database that is away is no reason to be restarted."""
    return answer({"status": "alive"})


async def readyz(database: Database, known: int, _: Request) -> Response:
    """200 where the database answers and its schema is current, else 503 with the kind of trouble; the log has more."""
    try:
        row = await database.row(SCHEMA_VERSION, {})
    except UnavailableError as error:
        away = database.away_because
        reason = f"The database {away}; the log says more." if away else str(error)
        raise UnavailableError("Not ready: the database does not serve us.", Problem("database", reason)) from error
    version = (row and row[0]) or 0
    if version < known:
        reason = f"is at version {version}, {known} is needed; run `wattline migrate`"
        raise UnavailableError("Not ready: the database schema is too old.", Problem("schema", reason))
    if version > known:
        reason = f"is at version {version}, this program knows {known}; install the newer wattline"
        raise UnavailableError("Not ready: the database schema is newer than this program.", Problem("schema", reason))
    return answer({"status": "ready", "schemaVersion": version})


async def metrics(registry: CollectorRegistry, _: Request) -> Response:
    return Response(generate_latest(registry), media_type=CONTENT_TYPE_LATEST)
