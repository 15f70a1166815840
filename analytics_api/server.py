"""The app on uvicorn, from the first socket to the last answer.

It serves while the database is away, and says so at /readyz; it needs no restart when the database comes. SIGTERM and
SIGINT let what is in hand finish.
"""

from __future__ import annotations

import logging
import signal
import sys

from analytics_api.access import bound_to_loopback
from analytics_api.app import create_app
from analytics_api.envelope import EnvelopedApp
from analytics_api.listening import listen, url_of
from analytics_api.stream import LISTENERS_MAX
from config.http_room import Room
from config.http_server import BoundedServer, bounded_config, connections_max
from config.open_files import raise_limit
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
    most = connections_max(raise_limit())
    if most < LISTENERS_MAX:
        log.warning("only %d connections at a time: this process may open few files; raise `ulimit -n`", most)
    app = create_app(settings, loopback_only=loopback_only, connections_max=most)
    server = BoundedServer(
        bounded_config(
            EnvelopedApp(app),
            keepalive_seconds=settings.http_keepalive_seconds,
            debugging=settings.log_level == "DEBUG",
            lifespan="on",
            timeout_graceful_shutdown=STOP_SECONDS_MAX,
        ),
        Room(most),
    )

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
