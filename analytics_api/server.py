"""The app on uvicorn, from the first socket to the last answer.

It serves while the database is away, and says so at /readyz; it needs no restart when the database comes. SIGTERM and
SIGINT let what is in hand finish.
"""

from __future__ import annotations

import logging
import signal
import sys

import uvicorn

from analytics_api.access import bound_to_loopback
from analytics_api.app import create_app
from analytics_api.envelope import EnvelopedApp
from analytics_api.listening import listen, url_of
from analytics_api.protocol import BoundedProtocol
from config.settings import Settings

STOP_SECONDS_MAX = 5  # longer than any answer takes

log = logging.getLogger(__name__)


def serve(settings: Settings) -> None:
    """Serve until a signal says stop; prints the URL once connections are taken. Raises ListenError."""
    sockets = listen(settings.host, settings.port)
    loopback_only = bound_to_loopback(sockets)
    if settings.api_write_loopback and not loopback_only:
        log.warning(
            "API_WRITE_LOOPBACK has no effect: HOST %s can be reached from elsewhere; writing needs API_WRITE_TOKENS",
            settings.host,
        )
    server = uvicorn.Server(_uvicorn_config(settings, loopback_only=loopback_only))

    def stop(*_: object) -> None:
        server.should_exit = True

    # uvicorn takes the signals over while it serves, and raises those that came anew when it is done: these make the
    # end an ordinary one, and do not lose a signal that comes before it serves.
    signal.signal(signal.SIGTERM, stop)
    signal.signal(signal.SIGINT, stop)
    url = url_of(sockets, settings.host)
    sys.stdout.write(f"{url}\n")
    sys.stdout.flush()
    log.info("serving %s from PostgreSQL at %s", url, settings.database_label)
    server.run(sockets=sockets)
    log.info("stopped")


def _uvicorn_config(settings: Settings, *, loopback_only: bool) -> uvicorn.Config:
    debugging = settings.log_level == "DEBUG"
    return uvicorn.Config(
        EnvelopedApp(create_app(settings, loopback_only=loopback_only)),
        http=BoundedProtocol,
        ws="none",
        lifespan="on",
        workers=1,
        log_config=None,
        log_level="debug" if debugging else "error",  # below are its own notes and what clients did wrong
        access_log=debugging,
        proxy_headers=False,  # who is asking is who is connected; a header can claim anything
        server_header=False,
        timeout_graceful_shutdown=STOP_SECONDS_MAX,
    )
