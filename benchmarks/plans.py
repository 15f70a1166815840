"""What PostgreSQL did for a statement, from EXPLAIN (ANALYZE, BUFFERS): its time, and which tables it read how."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import psycopg

from analytics_api.database.questions import Query


@dataclass(frozen=True)
class QueryPlan:
    """One execution. Times in ms, at the server."""

    milliseconds: float
    """Planning and execution."""
    scans: tuple[tuple[str, str], ...]
    """(kind of scan, table) of everything that was really read."""
    heap_fetches: int
    """Rows for which an index-only scan had to visit the table all the same."""
    pages: int

    def tables(self, part: str) -> set[str]:
        """The names of the tables read that contain `part`."""
        return {table for _, table in self.scans if part in table}


def explain(connection: psycopg.Connection[Any], query: Query, parameters: Mapping[str, object]) -> QueryPlan:
    """Run it once under EXPLAIN; without timing each node, which would cost more than the nodes."""
    statement = query if isinstance(query, bytes) else query.encode()
    row = connection.execute(b"EXPLAIN (ANALYZE, BUFFERS, TIMING OFF, FORMAT JSON) " + statement, parameters).fetchone()
    document = row[0][0] if row else {}
    nodes = [node for node in _nodes(document["Plan"]) if node.get("Actual Loops", 0)]
    return QueryPlan(
        document["Planning Time"] + document["Execution Time"],
        tuple((node["Node Type"], node["Relation Name"]) for node in nodes if "Relation Name" in node),
        sum(node.get("Heap Fetches", 0) for node in nodes),
        document["Plan"].get("Shared Hit Blocks", 0) + document["Plan"].get("Shared Read Blocks", 0),
    )


def _nodes(node: dict[str, Any]) -> Iterator[dict[str, Any]]:
    yield node
    for child in node.get("Plans", ()):
        yield from _nodes(child)
