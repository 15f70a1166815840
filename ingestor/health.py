"""`/metrics`, `/healthz` and `/readyz` of the ingestor, served on its own event loop so that the books are read between
two entries, never in the middle of one.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import socket
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator

from prometheus_client.exposition import CONTENT_TYPE_LATEST
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from config.errors import SettingsError
from serving.places import Places
from serving.server import BoundedServer, bounded_config

logger = logging.getLogger(__name__)

CONNECTIONS_MAX = 64
"""Prometheus, probes and a few people; the other files are for broker and database."""
KEEPALIVE_SECONDS = 75  # longer than Prometheus waits between two questions


class _Server(BoundedServer):
    """Without the signal handlers of uvicorn: the ingestor has its own."""

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield


def health_app(exposition: Callable[[], Awaitable[bytes]], problems: Callable[[], Awaitable[list[str]]]) -> Starlette:
    """`exposition` gives the metrics; `problems` says what keeps the ingestor from being ready, nothing when it is."""

    async def metrics(_: Request) -> Response:
        return Response(await exposition(), media_type=CONTENT_TYPE_LATEST)

    async def healthz(_: Request) -> Response:
        return JSONResponse({"status": "alive"})

    async def readyz(_: Request) -> Response:
        found = await problems()
        if found:
            return JSONResponse({"status": "not ready", "problems": found}, status_code=503)
        return JSONResponse({"status": "ready"})

    return Starlette(
        routes=[Route("/metrics", metrics), Route("/healthz", healthz), Route("/readyz", readyz)],
    )


def handed_over(descriptor: int) -> socket.socket:
    """A socket that listens already, of the process that has started this one."""
    return socket.socket(fileno=descriptor)


def listen(host: str, port: int) -> socket.socket:
    """A listening socket; the log says where. Raises SettingsError when the address cannot be had."""
    try:
        listener = socket.create_server((host, port), family=socket.AF_INET6 if ":" in host else socket.AF_INET)
    except (OSError, UnicodeError) as error:
        # Python's own text repeats the address.
        why = os.strerror(error.errno) if isinstance(error, OSError) and error.errno else str(error)
        raise SettingsError(f"METRICS_HOST, METRICS_PORT: cannot listen on {host}:{port}: {why.lower()}") from None
    logger.info("metrics and health on http://%s:%d", *listener.getsockname()[:2])
    return listener


@contextlib.asynccontextmanager
async def serving(app: Starlette, listener: socket.socket) -> AsyncIterator[None]:
    """Serve for as long as the context lasts."""
    config = bounded_config(app, keepalive_seconds=KEEPALIVE_SECONDS, lifespan="off", timeout_graceful_shutdown=1)
    server = _Server(config, Places(CONNECTIONS_MAX))
    task = asyncio.create_task(server.serve(sockets=[listener]), name="health")
    try:
        yield
    finally:
        server.should_exit = True
        await task
