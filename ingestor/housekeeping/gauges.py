"""The chore that counts silent devices. While we are not connected to the broker, silence is ours and not theirs."""

from __future__ import annotations

from collections.abc import Callable

from ingestor.housekeeping.chores import Chore
from ingestor.metrics import IngestMetrics
from postgres.connecting import Session
from postgres.session import Limits
from telemetry.kinds import SqlByKind

LOOK_SECONDS = 30.0

SILENT_DEVICES = SqlByKind("SELECT count(*) FROM {status} WHERE {silent}")


def chore(silent_after: float, metrics: IngestMetrics, connected: Callable[[], bool]) -> Chore:
    """The gauges stand still while not `connected`; `silent_after` is SILENT_AFTER_SECONDS."""

    async def count_silent(session: Session) -> bool:
        if connected():
            for kind, query in SILENT_DEVICES.items():
                row = await (await session.execute(query, {"silent_after": silent_after})).fetchone()
                metrics.silent.labels(kind).set(row[0] if row else 0)
        return False

    return Chore(
        "gauges", count_silent, LOOK_SECONDS, deadline_seconds=60.0, limits=Limits(statement_ms=30_000, lock_ms=10_000)
    )
