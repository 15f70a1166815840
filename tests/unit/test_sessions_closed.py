"""A session is given back whatever happens to its user, and whenever: a server has only so many."""

from __future__ import annotations

import asyncio

import pytest

from ingestor import sink, wire
from ingestor.batch import Batch
from ingestor.housekeeping import chores
from ingestor.housekeeping.chores import Chore, keep_doing
from ingestor.metrics import IngestMetrics
from postgres.deadline import Deadline


class ScriptedSession:
    """Knows whether it was closed; what it executes fails."""

    backend_pid = 1

    def __init__(self) -> None:
        self.closed = False

    async def execute(self, *_: object) -> None:
        await asyncio.sleep(0)
        raise ConnectionResetError("cut")

    def within(self, seconds: float) -> Deadline:
        return Deadline(seconds, self.hang_up)

    def hang_up(self) -> None:
        raise AssertionError("there was time enough")

    async def close(self) -> None:
        self.closed = True


@pytest.fixture
def opened(monkeypatch: pytest.MonkeyPatch) -> list[ScriptedSession]:
    sessions: list[ScriptedSession] = []

    async def connect(*_: object, **__: object) -> ScriptedSession:
        await asyncio.sleep(0)
        sessions.append(ScriptedSession())
        return sessions[-1]

    monkeypatch.setattr(chores, "connect", connect)
    monkeypatch.setattr(sink, "connect", connect)
    return sessions


@pytest.mark.parametrize("turns", range(12))
def test_a_chore_may_be_cancelled_at_any_moment(turns: int, opened: list[ScriptedSession]) -> None:
    """After so many turns of the event loop: while it connects, works, waits for its helper, or rests."""

    async def one_round(_: object) -> bool:
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        return True

    async def story() -> None:
        chore = Chore("gauges", one_round, every_seconds=0, deadline_seconds=60)
        doing = asyncio.create_task(keep_doing(chore, conninfo="", label="here", books=IngestMetrics()))
        for _ in range(turns):
            await asyncio.sleep(0)
        doing.cancel()
        await asyncio.wait([doing])
        assert [session.closed for session in opened] == [True] * len(opened)

    asyncio.run(story())


def test_a_session_that_fails_while_it_is_set_up_is_closed(
    opened: list[ScriptedSession], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(wire, "register", lambda _: None)

    async def story() -> None:
        writes = sink.Sink("")
        for _ in range(2):
            with pytest.raises(ConnectionResetError):
                await writes.store(Batch())

    asyncio.run(story())
    assert [session.closed for session in opened] == [True, True]
