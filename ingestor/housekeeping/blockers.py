"""Who holds the locks that a session waits for: for one line in the log that names them."""

from __future__ import annotations

from dataclasses import dataclass

from psycopg.rows import class_row

from postgres.connecting import Session

# A prepared transaction holds its locks under no process: pid 0.
_BLOCKERS = """
    SELECT blocking.pid,
           coalesce(activity.application_name, '') AS application,
           coalesce(activity.usename::text, '') AS username,
           coalesce(activity.state, '') AS state,
           extract(epoch FROM clock_timestamp() - activity.xact_start)::float8 AS seconds
    FROM (SELECT DISTINCT unnest(pg_blocking_pids(%s)) AS pid) AS blocking
    LEFT JOIN pg_stat_activity AS activity ON activity.pid = blocking.pid
    ORDER BY blocking.pid"""


@dataclass(frozen=True)
class Blocker:
    """A session that holds a lock that another one waits for. What we may not see of it is empty."""

    pid: int
    application: str
    username: str
    state: str
    seconds: float | None
    """Age of its transaction."""

    def __str__(self) -> str:
        """For a log line, with what to do."""
        if self.pid == 0:
            return "a prepared transaction; pg_prepared_xacts shows it, COMMIT PREPARED or ROLLBACK PREPARED ends it"
        facts = [f"application {self.application!r}", f"user {self.username}" if self.username else "", self.state]
        if self.seconds is not None:
            facts.append(f"its transaction began {self.seconds:.0f} s ago")
        return (
            f"the session with pid {self.pid} ({', '.join(filter(None, facts))}); "
            f"end its transaction, or the session by SELECT pg_terminate_backend({self.pid})"
        )


async def blockers_of(session: Session, pid: int) -> list[Blocker]:
    """The sessions that hold up the session whose backend is `pid`; none where it does not wait for a lock."""
    async with session.cursor(row_factory=class_row(Blocker)) as cursor:
        await cursor.execute(_BLOCKERS, [pid])
        return await cursor.fetchall()
