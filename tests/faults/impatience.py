"""A broker that loses patience soon, so that half-dead connections show within a test's time."""

from __future__ import annotations

from embedded.mosquitto import MosquittoServer

KEEPALIVE_SECONDS = 10  # the shortest that Mosquitto can ask for


class ImpatientMosquitto(MosquittoServer):
    """The embedded broker, with a keepalive for everybody that wins over the client's own."""

    def _configuration(self) -> str:
        return f"{super()._configuration()}\nmax_keepalive {KEEPALIVE_SECONDS}\n"
