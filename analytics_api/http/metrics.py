"""What the API counts: requests and their time by route, and the state of its connections to both sides.

Labels are bounded: a route is its template, never the path that was asked for, and a method is one of the known.
"""

from __future__ import annotations

from collections.abc import Iterator
from time import perf_counter

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, ProcessCollector
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from analytics_api.database.questions import Database
from analytics_api.http.wrong_tokens import WrongTokens
from config.version import wattline_version
from serving.places import Places

METHODS = frozenset({"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"})
OTHER_METHOD = "other"
NO_ROUTE = "none"
# Around 1 ms, where most answers are, and up to the 3 s within which every answer is promised.
SECONDS_BUCKETS = (0.0005, 0.001, 0.002, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2, 3)
# What lasts as long as somebody listens has no time of an answer; it is only counted.
LASTING_ROUTES = frozenset({"/v1/stream"})
_LABELS = ("route", "method", "status")


class HttpMetrics:
    """`wattline_http_requests_total` and `wattline_http_request_seconds`, by route, method and status."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self._requests = Counter("wattline_http_requests", "requests answered", _LABELS, registry=registry)
        self._seconds = Histogram(
            "wattline_http_request_seconds",
            "from the request's head to the end of its answer",
            _LABELS,
            buckets=SECONDS_BUCKETS,
            registry=registry,
        )
        # `labels()` sorts out its arguments again each time, for 4 µs; the bounded labels make this bounded as well.
        self._children: dict[tuple[str, str, int], tuple[Counter, Histogram | None]] = {}

    def observe(self, route: str, method: str, status: int, seconds: float) -> None:
        labels = (route, method, status)
        children = self._children.get(labels)
        if children is None:
            timed = None if route in LASTING_ROUTES else self._seconds.labels(*labels)
            children = self._requests.labels(*labels), timed
            self._children[labels] = children
        requests, timed = children
        requests.inc()
        if timed is not None:
            timed.observe(seconds)


class MeasuredApp:
    """ASGI middleware that counts every request, also those that no route or only an error answers."""

    def __init__(self, app: ASGIApp, metrics: HttpMetrics) -> None:
        self._app = app
        self._metrics = metrics

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        started = perf_counter()
        status = 500  # of a request that ends in an exception

        async def send_and_note(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
            await send(message)

        try:
            await self._app(scope, receive, send_and_note)
        finally:
            route = scope.get("route")  # the router leaves it there
            method = scope["method"]
            self._metrics.observe(
                NO_ROUTE if route is None else route.path,
                method if method in METHODS else OTHER_METHOD,
                status,
                perf_counter() - started,
            )


class PoolMetrics(Collector):
    """`wattline_api_pool_...`, read from the pool when somebody asks."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def collect(self) -> Iterator[Metric]:
        stats = self._database.pool_stats()
        for name, key, meaning in (
            ("connections", "pool_size", "connections to PostgreSQL, open or being opened"),
            ("connections_idle", "pool_available", "connections that wait for a request"),
            ("connections_max", "pool_max", "the most connections there may be"),
            ("requests_waiting", "requests_waiting", "requests that wait for a connection"),
        ):
            yield GaugeMetricFamily(f"wattline_api_pool_{name}", meaning, value=stats.get(key, 0))


class ConnectionMetrics(Collector):
    """`wattline_http_connections...`, read from the server's places when somebody asks."""

    def __init__(self, places: Places) -> None:
        self._places = places

    def collect(self) -> Iterator[Metric]:
        places = self._places
        yield GaugeMetricFamily("wattline_http_connections", "open connections of clients", value=places.connections)
        yield GaugeMetricFamily("wattline_http_connections_max", "as many are served at a time", value=places.most)
        yield CounterMetricFamily(
            "wattline_http_connections_refused",
            "connections answered 503 because all places were taken",
            value=places.turned_away_total,
        )


class WrongTokenMetrics(Collector):
    """`wattline_api_wrong_tokens_total`, read when somebody asks."""

    def __init__(self, wrong: WrongTokens) -> None:
        self._wrong = wrong

    def collect(self) -> Iterator[Metric]:
        family = CounterMetricFamily(
            "wattline_api_wrong_tokens", "tokens that were wrong, or not looked at after too many", labels=["outcome"]
        )
        family.add_metric(["refused"], self._wrong.wrong_total)
        family.add_metric(["not_compared"], self._wrong.limited_total)
        yield family


def build_registry(database: Database, places: Places, wrong: WrongTokens) -> tuple[CollectorRegistry, HttpMetrics]:
    """A registry of its own, with the process's CPU, memory and file descriptors in it."""
    registry = CollectorRegistry()
    ProcessCollector(registry=registry)
    info = Gauge("wattline_build_info", "1; the version stands in its label", ["version"], registry=registry)
    info.labels(wattline_version()).set(1)
    registry.register(PoolMetrics(database))
    registry.register(ConnectionMetrics(places))
    registry.register(WrongTokenMetrics(wrong))
    return registry, HttpMetrics(registry)
