"""A page of rows as JSON, with the cursor of the next one; or all of them as CSV, where no limit is given."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from psycopg.rows import TupleRow
from starlette.requests import Request
from starlette.responses import Response

from analytics_api.database.questions import Database
from analytics_api.http.answers import page_answer
from analytics_api.http.csv_answers import CsvAnswer, prefers_csv
from analytics_api.http.cursors import page_of
from analytics_api.http.parameters import LIMIT_DEFAULT
from analytics_api.readings.layouts import Layout


async def page_or_csv(  # noqa: PLR0913 - what is asked, and how it is told
    request: Request,
    database: Database,
    query: bytes,
    key: Mapping[str, object],
    *,
    limit: int | None,
    layout: Layout,
    cursor_after: Callable[[TupleRow], str],
    of_window: bool = False,
) -> Response:
    """The answer to `query`, which takes `key`, and `rows`: how many, null for all. `of_window` is `Database`'s."""
    if prefers_csv(request):
        return CsvAnswer(database, query, {**key, "rows": limit}, layout)
    limit = limit or LIMIT_DEFAULT
    rows = await database.rows(query, {**key, "rows": limit + 1}, of_window=of_window)
    page, next_cursor = page_of(rows, limit, cursor_after)
    return page_answer([layout.json(row) for row in page], next_cursor)
