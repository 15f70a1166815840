"""`GET /v1/stream`: the fleet, live, as server-sent events: counters and the devices that changed, once a second.

One question a second for all listeners together, none while nobody listens. Nobody waits for a listener: each has a
slot for the newest event, and one that is late finds the events it missed counted, never queued.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from functools import partial
from itertools import count
from typing import LiteralString, Self

from psycopg.rows import TupleRow
from pydantic_core import to_json
from sse_starlette import EventSourceResponse, ServerSentEvent
from sse_starlette.sse import SendTimeoutError
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import BaseRoute, Route
from starlette.types import Receive, Scope, Send

from analytics_api.database.questions import Database
from analytics_api.http.answers import timestamp
from analytics_api.http.errors import UnavailableError
from analytics_api.readings.layouts import STATUS, Layout
from telemetry.kinds import KINDS

INTERVAL_SECONDS = 1.0
LISTENERS_MAX = 1_000
LISTENERS_SHARE = 0.75  # of all connections; the others are for those who ask and go
CHANGED_MAX = 200  # of each kind in one event
HEARTBEAT_SECONDS = 10  # proxies close what is silent for 30 to 60 s
SEND_SECONDS_MAX = 10.0  # a listener that takes nothing for so long is gone
RETRY_MS = 2_000
# A flush writes the moment at which it began and is seen when it commits: its rows may be older than some already
# sent. So each question looks back as far, and what was sent already is left out.
LOOK_BACK = timedelta(seconds=10)
LOOK_BACK_MAX = timedelta(minutes=5)  # after an outage; devices that changed before that are in the lists

# Of each kind; 10,000 devices with a reading a minute change 1,700 times in LOOK_BACK. What is cut is the oldest of it.
ROWS_MAX = 5_000

# Of a kind: how many devices there are and how many of them are silent, without an id; then those that changed.
OF_KIND: LiteralString = """
    SELECT '{kind}'::text AS kind, NULL::text AS device,
        ARRAY[count(*), count(*) FILTER (WHERE {silent})]::float8[] AS numbers,
        now() AS last_reading, now() AS last_updated
    FROM {status}
    UNION ALL
    (SELECT '{kind}', {id}, ARRAY[{measures}]::float8[], last_reading, last_updated
    FROM {status} WHERE last_updated > now() - %(look_back)s::interval
    ORDER BY last_updated DESC LIMIT %(rows_max)s)"""

# All kinds in one statement, so that an event is of one moment. For 20,000 devices 4.5 ms, of which 2 for the counters,
# where 4,400 rows are read, and 10 ms after an outage, with twice ROWS_MAX (EXPLAIN ANALYZE, PostgreSQL 18, median of
# 15). An index on last_updated would save some of it once a second, and cost every flush its HOT updates.
CHANGES = b"\n    UNION ALL".join(kind.sql(OF_KIND) for kind in KINDS)

logger = logging.getLogger(__name__)


class TooManyListenersError(UnavailableError):
    """No place for another listener; somebody may leave. The connection ends, for it would only take a place too."""

    headers = {**UnavailableError.headers, "Connection": "close"}  # noqa: RUF012 - a Mapping, declared so above


@dataclass(eq=False)
class Listener:
    """One listener's slot: the newest event, and how many it replaced."""

    event: bytes | None = None
    skipped: int = 0
    filled: asyncio.Event = field(default_factory=asyncio.Event)

    def put(self, event: bytes) -> None:
        """Replace what was not taken."""
        self.skipped += self.event is not None
        self.event = event
        self.filled.set()

    async def take(self) -> bytes:
        """The newest event, once there is one; before it, how many this listener missed."""
        await self.filled.wait()
        self.filled.clear()
        event, skipped = self.event or b"", self.skipped
        self.event, self.skipped = None, 0
        return _encoded("skipped", {"events": skipped}) + event if skipped else event


class Stream:
    """Asks while somebody listens, and tells all; use it with `async with`, so that it ends with the application.

    `patience_seconds`: a listener that takes nothing for so long is cut off.
    """

    def __init__(
        self,
        database: Database,
        *,
        silent_after: float,
        patience_seconds: float = SEND_SECONDS_MAX,
        listeners_max: int = LISTENERS_MAX,
    ) -> None:
        """`silent_after` is SILENT_AFTER_SECONDS."""
        self.patience_seconds = patience_seconds
        self._listeners_max = listeners_max
        self._silent_after = silent_after
        self._database = database
        self._listeners: set[Listener] = set()
        self._asking: asyncio.Task[None] | None = None
        self._numbers = count(1)
        self._latest: bytes | None = None
        self._problem: str | None = None
        self._sent: dict[tuple[str, str], datetime] = {}

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        if self._asking:
            self._asking.cancel()
            with suppress(asyncio.CancelledError):
                await self._asking

    def join(self) -> Listener:
        """A place among the listeners; `leave` gives it back. Raises TooManyListenersError."""
        if len(self._listeners) >= self._listeners_max:
            raise TooManyListenersError(f"There are {self._listeners_max:,} listeners already; try again later.")
        listener = Listener()
        self._listeners.add(listener)
        if self._asking is None or self._asking.done():
            self._latest = self._problem = None
            self._sent.clear()
            self._asking = asyncio.create_task(self._ask_while_listened_to(), name="stream")
        elif self._latest:
            listener.put(self._latest)
        return listener

    def leave(self, listener: Listener) -> None:
        """The last one out ends the asking, within a second."""
        self._listeners.discard(listener)

    async def _ask_while_listened_to(self) -> None:
        loop = asyncio.get_running_loop()
        while self._listeners:
            due = loop.time() + INTERVAL_SECONDS
            try:
                await self._ask()
            except UnavailableError as error:
                self._tell_problem(str(error))
            except Exception:
                logger.exception("the stream could not be told")
                self._tell_problem("Something went wrong on our side; it has been logged.")
            await asyncio.sleep(max(0.0, due - loop.time()))

    async def _ask(self) -> None:
        look_back = LOOK_BACK_MAX if self._problem else LOOK_BACK
        asked = {"look_back": look_back, "rows_max": ROWS_MAX, "silent_after": self._silent_after}
        rows = await self._database.rows(CHANGES, asked)
        data = self._changes(rows)
        self._problem = None
        self._tell("fleet", data)

    def _changes(self, rows: Sequence[TupleRow]) -> dict[str, object]:
        """The data of an event: what is in `rows` (those of CHANGES) and was not in an event before."""
        changed: dict[str, list[TupleRow]] = {kind.name: [] for kind in KINDS}
        totals: dict[str, int] = {}
        silent = 0
        sent: dict[tuple[str, str], datetime] = {}
        for row in rows:
            kind, device, numbers, moment, last_updated = row
            if device is None:
                totals[kind], now = int(numbers[0]), moment
                silent += int(numbers[1])
                continue
            sent[kind, device] = last_updated
            if self._sent.get((kind, device)) != last_updated:
                changed[kind].append(row)
        self._sent = sent
        return {
            "time": timestamp(now),
            **{kind.total_field: totals[kind.name] for kind in KINDS},
            "silentDevices": silent,
            **{kind.many: _statuses(STATUS[kind.name], changed[kind.name]) for kind in KINDS},
            "more": sum(max(0, len(rows) - CHANGED_MAX) for rows in changed.values()),
        }

    def _tell_problem(self, words: str) -> None:
        if words != self._problem:
            self._problem = words
            self._tell("problem", {"message": words})

    def _tell(self, event: str, data: object) -> None:
        self._latest = _encoded(event, data, next(self._numbers))
        for listener in self._listeners:
            listener.put(self._latest)


class _StreamResponse(EventSourceResponse):
    """Gives the listener's place back, however it ends."""

    def __init__(self, stream: Stream) -> None:
        self._stream = stream
        self._listener = stream.join()
        super().__init__(
            self._events(),
            ping=HEARTBEAT_SECONDS,
            ping_message_factory=lambda: ServerSentEvent(comment="still here", sep="\n"),
            send_timeout=stream.patience_seconds,
        )

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            await super().__call__(scope, receive, send)
        except SendTimeoutError:
            abort = scope.get("abort")
            if abort is None:
                raise  # a server that is not ours ends the connection in its own way
            abort()  # closing would wait until the listener takes the rest
            while (await receive())["type"] != "http.disconnect":
                pass  # returning earlier would leave an answer unfinished, says the server
        finally:
            self._stream.leave(self._listener)

    async def _events(self) -> AsyncIterator[bytes]:
        yield f"retry: {RETRY_MS}\n\n".encode()
        while True:
            yield await self._listener.take()


def listeners_max(connections_max: int) -> int:
    """How many listeners a server with so many connections may have."""
    return min(LISTENERS_MAX, int(connections_max * LISTENERS_SHARE))


def routes(stream: Stream) -> list[BaseRoute]:
    return [Route("/v1/stream", partial(listen, stream))]


async def listen(stream: Stream, request: Request) -> Response:
    """Events `fleet`, `problem` and `skipped` until the listener leaves or the server stops."""
    if request.method == "HEAD":
        return Response(media_type="text/event-stream", headers={"Cache-Control": "no-store"})
    return _StreamResponse(stream)


def _statuses(layout: Layout, rows: list[TupleRow]) -> list[dict[str, object]]:
    """The newest of the changes, as many as an event holds."""
    newest = sorted(rows, key=lambda row: row[-1], reverse=True)[:CHANGED_MAX]
    return [layout.json((device, *numbers, *moments)) for _, device, numbers, *moments in newest]


def _encoded(event: str, data: object, number: int | None = None) -> bytes:
    """One event; JSON in one line needs one `data:`."""
    head = f"event: {event}\n" + (f"id: {number}\n" if number else "")
    return head.encode() + b"data: " + to_json(data, inf_nan_mode="null") + b"\n\n"
