"""The app on uvicorn, from the first socket to the last answer.

It serves while the database is away, and says so at /readyz; it needs no restart when the database comes. SIGTERM and
SIGINT let what is in hand finish; SIGHUP reads again what may change meanwhile.
"""

from __future__ import annotations

import logging
import signal
import socket
import sys
from collections.abc import Callable

from analytics_api.app import create_app
from analytics_api.http.access import AccessRules, RulesInForce, bound_to_loopback
from analytics_api.http.envelope import EnvelopedApp
from analytics_api.http.listening import listen, url_of
from analytics_api.live.stream import LISTENERS_MAX
from config.errors import SettingsError
from config.logging import configure_logging
from config.open_files import raise_limit
from config.reread import Rereading
from config.settings import Settings
from mqtt.options import LinkOptions
from serving.certificate import Certificate
from serving.places import Places
from serving.server import BoundedServer, bounded_config, connections_max, note_requests

STOP_SECONDS_MAX = 5  # longer than any answer takes

logger = logging.getLogger(__name__)


class _Server(BoundedServer):
    """Reads its settings again at SIGHUP, from its start on."""

    rereading: Rereading

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        self.rereading.listen()
        await super().startup(sockets)


def serve(load: Callable[[], Settings]) -> None:
    """Serve until a signal says stop; prints the URL once connections are taken. Raises ListenError, SettingsError."""
    access: RulesInForce

    def apply(settings: Settings) -> None:
        access.rules = AccessRules.of(settings, loopback_only=loopback_only)
        note_requests(debugging=settings.log_level == "DEBUG")
        if certificate is not None:
            _reread(certificate)

    rereading = Rereading(load, _check, apply)
    settings = rereading.settings
    configure_logging(settings.log_level, settings.log_format)
    certificate = _certificate(settings)
    sockets = listen(settings.host, settings.port)
    loopback_only = bound_to_loopback(sockets)
    if settings.api_write_loopback and not loopback_only:
        logger.warning(
            "API_WRITE_LOOPBACK has no effect: HOST %s can be reached from elsewhere; writing needs API_WRITE_TOKENS",
            settings.host,
        )
    most = connections_max(raise_limit())
    if most < LISTENERS_MAX:
        logger.warning("only %d connections at a time: this process may open few files; raise `ulimit -n`", most)
    access = RulesInForce(AccessRules.of(settings, loopback_only=loopback_only))
    places = Places(most)
    app = create_app(settings, access, places)
    config = bounded_config(
        EnvelopedApp(app),
        keepalive_seconds=settings.http_keepalive_seconds,
        debugging=settings.log_level == "DEBUG",
        lifespan="on",
        timeout_graceful_shutdown=STOP_SECONDS_MAX,
    )
    server = _Server(config, places, certificate)
    server.rereading = rereading
    _run(server, sockets, settings)


def _certificate(settings: Settings) -> Certificate | None:
    """Raises SettingsError for files that cannot be used."""
    if settings.api_tls_cert is None or settings.api_tls_key is None:
        return None
    return Certificate(settings.api_tls_cert, settings.api_tls_key)


def _reread(certificate: Certificate) -> None:
    try:
        certificate.reread()
    except SettingsError as error:  # the files of a path that waits for a restart have been checked, these may be gone
        logger.error("%s; the certificate of before stays in use", error)  # noqa: TRY400 - one line for a person


def _run(server: _Server, sockets: list[socket.socket], settings: Settings) -> None:
    def stop(*_: object) -> None:
        server.should_exit = True

    # uvicorn takes the signals over while it serves, and raises them once more when it is done: these handlers make the
    # end an ordinary one, and do not lose a signal that comes before it serves.
    signal.signal(signal.SIGTERM, stop)
    signal.signal(signal.SIGINT, stop)
    url = url_of(sockets, settings.host, "http" if settings.api_tls_cert is None else "https")
    sys.stdout.write(f"{url}\n")
    sys.stdout.flush()
    logger.info("serving %s from PostgreSQL at %s", url, settings.database_label)
    server.run(sockets=sockets)
    logger.info("stopped")


def _check(settings: Settings) -> None:
    """Raises SettingsError for certificate files that cannot be used."""
    LinkOptions.from_settings(settings.connecting_by(settings.mqtt_gateway_url), client_id="")
    _certificate(settings)
