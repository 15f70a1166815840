"""Looks at the two clocks again and again, tells what it finds, and holds batches while they disagree.

A look is one short statement on a session of its own. Nothing here decides on readings: it says when one may.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable

import psycopg

from config.seldom import Once
from ingestor.clocks import Clocks
from postgres.connecting import Session, connect
from postgres.session import Limits

logger = logging.getLogger(__name__)

LOOK_SECONDS = 10.0
# While they disagree a person is at it, and wants to see that it helped; and a clock that was set shows at once.
LOOK_IN_DOUBT_SECONDS = 1.0
LOOK_SECONDS_MAX = 5.0
AGREE = "agree"
LIMITS = Limits(statement_ms=3_000)


class ClockWatch:
    """All methods belong to one event loop."""

    def __init__(self, conninfo: str, clocks: Clocks, *, on_look: Callable[[], None]) -> None:
        """`on_look` is called after each look, when `clocks` may say something else than before."""
        self.clocks = clocks
        self._conninfo = conninfo
        self._on_look = on_look
        self._session: Session | None = None
        self._looking = asyncio.Lock()
        self._said = Once(said=AGREE)
        self._fault = Once()

    async def run(self) -> None:
        """Look until cancelled. A database that does not answer is the flush's to tell."""
        try:
            while True:
                await self._looked()
                await self._until_next()
        finally:
            await self.close()

    async def look(self) -> None:
        """Compare the clocks now. Raises psycopg.Error or OSError where the database does not answer."""
        async with self._looking:
            try:
                if self._session is None:
                    self._session = await connect(
                        self._conninfo, autocommit=True, application_name="wattline clock", limits=LIMITS
                    )
                with self._session.within(LOOK_SECONDS_MAX):
                    await self.clocks.compare(self._session)
            except BaseException:
                await self.close()
                raise
        self._tell()
        self._on_look()

    async def agreed(self, *, judged_by_clock: bool) -> None:
        """Return once readings may be judged by our clock.

        `judged_by_clock`: readings were refused by it, so it has to be looked at once more after that.
        """
        must_look = judged_by_clock
        while must_look or self.clocks.jumped() or self.clocks.problem() is not None:
            if await self._looked():
                must_look = False
            elif not judged_by_clock and self.clocks.problem() is None:
                return  # nothing is in doubt but the database, and the flush will tell
            if must_look or self.clocks.problem() is not None:
                await asyncio.sleep(LOOK_IN_DOUBT_SECONDS)

    async def _looked(self) -> bool:
        """Look; False where that failed. What is no trouble with the database is told once, and ends nothing."""
        try:
            await self.look()
        except (psycopg.Error, OSError):
            return False
        except Exception as error:
            if self._fault.is_new(repr(error)):
                logger.exception("the clocks cannot be compared: a fault of wattline")
            return False
        self._fault.forget()
        return True

    async def close(self) -> None:
        """Give the session back; the next look opens another."""
        session, self._session = self._session, None
        if session is not None:
            await session.close()

    async def _until_next(self) -> None:
        """Sleep until the next look is due, in steps, since a jump of our clock makes it due."""
        loop = asyncio.get_running_loop()
        due = loop.time() + LOOK_SECONDS
        while loop.time() < due:
            await asyncio.sleep(LOOK_IN_DOUBT_SECONDS)
            if self.clocks.jumped() or self.clocks.problem() is not None:
                return

    def _tell(self) -> None:
        """Once for each state, not once for each look; the seconds of a disagreement change all the time."""
        problem, warning = self.clocks.problem(), self.clocks.warning()
        if not self._said.is_new("fault" if problem else "warning" if warning else AGREE):
            return
        if problem:
            logger.error("%s; nothing is acknowledged, so nothing is lost", problem)
        elif warning:
            logger.warning("%s", warning)
        else:
            logger.info("our clock and the database's agree again")
