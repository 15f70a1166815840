"""CSV instead of JSON, for who prefers it: any number of rows in the memory of a few thousand.

An error before the first line is an ordinary error answer. After it the connection is cut in the middle of the body,
so that no client takes a part for the whole. A client that reads too slowly, or not at all, is cut as well: behind
each of these answers stands a connection to PostgreSQL.
"""

from __future__ import annotations

import asyncio
import logging
import re
from collections.abc import Mapping

from psycopg.rows import TupleRow
from starlette.requests import Request
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from analytics_api.database.questions import Database
from analytics_api.http.answers import VARIES
from analytics_api.http.errors import UnavailableError
from analytics_api.readings.layouts import Layout

# For 200 KB to be taken; and for the whole file, as an open snapshot holds up PostgreSQL's vacuum and retention.
SEND_SECONDS_MAX = 30.0
WHOLE_SECONDS_MAX = 300.0

JSON = "application/json"
CSV = "text/csv"
_WEIGHT = re.compile(r"0(\.[0-9]{0,3})?|1(\.0{0,3})?")

logger = logging.getLogger(__name__)


def prefers_csv(request: Request) -> bool:
    """True if CSV is what `Accept` likes better. JSON is for all others, also for those who asked for neither."""
    weights = _weights(",".join(request.headers.getlist("accept")))
    return _weight(weights, CSV) > _weight(weights, JSON)


class CsvAnswer(Response):
    """All rows of a query, a line each."""

    media_type = CSV

    def __init__(self, database: Database, query: bytes, parameters: Mapping[str, object], layout: Layout) -> None:
        super().__init__(headers={"Cache-Control": "no-store", **VARIES})
        del self.headers["content-length"]  # nobody knows it before the end
        self._database = database
        self._query = query
        self._parameters = parameters
        self._layout = layout

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        deadline = asyncio.get_running_loop().time() + WHOLE_SECONDS_MAX
        sending = False
        try:
            async with self._database.long_answer(self._query, self._parameters) as fetches:
                rows: list[TupleRow] = await anext(fetches, [])
                sending = True
                await send({"type": "http.response.start", "status": self.status_code, "headers": self.raw_headers})
                body = self._layout.csv_header + self._layout.csv(rows)
                while rows and scope["method"] != "HEAD":
                    await _send_in_time(send, body, deadline, more=True)
                    if await Request(scope, receive).is_disconnected():
                        return
                    rows = await anext(fetches, [])
                    body = self._layout.csv(rows)
            await _send_in_time(send, body, deadline, more=False)
        except TimeoutError:
            logger.warning("cut a CSV answer whose client took too long to read it")
            await _cut(scope)
        except UnavailableError as error:
            if not sending:
                raise
            logger.warning("cut a CSV answer: %s", error)
            await _cut(scope)


async def _send_in_time(send: Send, body: bytes, deadline: float, *, more: bool) -> None:
    """Raises TimeoutError where the client has not taken enough of what came before."""
    now = asyncio.get_running_loop().time()
    if now >= deadline:
        raise TimeoutError
    async with asyncio.timeout_at(min(now + SEND_SECONDS_MAX, deadline)):
        await send({"type": "http.response.body", "body": body, "more_body": more})


async def _cut(scope: Scope) -> None:
    scope["abort"]()  # closing would wait until the client takes the rest
    await asyncio.sleep(0)  # until the server knows that the connection is gone


def _weights(accept: str) -> dict[str, float]:
    """The media ranges of an Accept header; what is malformed counts for nothing."""
    weights: dict[str, float] = {}
    for part in accept.split(","):
        name, *parameters = (piece.strip().lower() for piece in part.split(";"))
        given = [text[2:] for text in parameters if text.startswith("q=")]
        if all(_WEIGHT.fullmatch(text) for text in given):
            weights[name] = max(weights.get(name, 0.0), *map(float, given)) if given else 1.0
    return weights


def _weight(weights: Mapping[str, float], media_type: str) -> float:
    """What the most specific range says of a type."""
    for name in (media_type, media_type.partition("/")[0] + "/*", "*/*"):
        if name in weights:
            return weights[name]
    return 0.0
