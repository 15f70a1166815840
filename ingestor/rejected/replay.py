"""Refused messages judged and stored once more, after whatever refused them was put right.

Not through the broker: a publisher is told that the broker has a message, never what became of it, and what is
refused again would lie in quarantine a second time. So a message goes the ingestor's own way from here on: its decoder
and its sink, a transaction for each. Killed in between, it is replayed again by the next run, which finds it repeated.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import Literal

from config.backoff import backoff_seconds
from ingestor.batch import Batch, Refusal
from ingestor.clocks import database_clock
from ingestor.decode import Decoder
from ingestor.rejected.limit import KeepLimit
from ingestor.rejected.quarantine import Choice, chosen, mark_refused_again, mark_replayed
from ingestor.sink import Outcome, Sink
from postgres.connecting import Session
from telemetry.rules import Rules

Fate = Literal["stored", "repeated", "in conflict", "refused again", "locked", "cut"]
"""What became of a message; where its readings fared differently, the worst of it. `locked`: not stored yet, somebody
holds a lock that it needs. `cut`: only a part of it was kept, so it was not tried.
"""

# The first attempts may be what it takes to find a culprit, or to pass a deadlock by.
ATTEMPTS = 4
RETRY_SECONDS_MIN, RETRY_SECONDS_MAX = 0.1, 1.0


@dataclass(frozen=True)
class Verdict:
    """What became of one message, and what is against it where it was not taken whole."""

    fate: Fate
    refusal: Refusal | None = None
    kept: bool = True
    """What is refused lies in quarantine."""


class Replay:
    """Messages through the decoder and the sink of an ingestor, one at a time, by this set-up's rules."""

    def __init__(self, conninfo: str, rules: Rules, *, timeout_seconds: float, keeps_refusals: bool) -> None:
        """`keeps_refusals`: what is refused goes to quarantine, because it does not come from there."""
        self._sink = Sink(conninfo, timeout_seconds=timeout_seconds, keeps_refusals=keeps_refusals)
        self._decoder = Decoder(rules, keep_limit=KeepLimit(10**9))

    async def close(self) -> None:
        await self._sink.close()

    async def judge(self, topic: str, payload: bytes, now: float) -> Verdict:
        """Store the readings of a message, as the rules are at `now` (seconds since 1970). Raises what PostgreSQL says
        again and again.
        """
        batch = self._decoder.alone(topic, payload, now)
        batch.may_be_stored = True
        outcome = await self._stored(batch)
        refused = [*batch.rejected, *outcome.refused]
        if outcome.later:
            return Verdict("locked")
        if refused:
            in_conflict = all(refusal.code == "conflict" for refusal in refused)
            return Verdict("in conflict" if in_conflict else "refused again", refused[0], kept=not outcome.kept.lost)
        return Verdict("stored" if sum(outcome.committed.values()) else "repeated")

    async def _stored(self, batch: Batch) -> Outcome:
        for attempt in range(1, ATTEMPTS):
            try:
                return await self._sink.store(batch)
            except Exception:  # noqa: BLE001 - the sink has noted what it learned, and looks closer next time
                await asyncio.sleep(backoff_seconds(attempt, least=RETRY_SECONDS_MIN, most=RETRY_SECONDS_MAX))
        return await self._sink.store(batch)


async def replay_chosen(session: Session, replay: Replay, choice: Choice) -> AsyncIterator[tuple[int, Verdict]]:
    """Id and verdict of each message that `choice` names, oldest first, once its row says so, too.

    The session must be in autocommit mode.
    """
    async for chunk in chosen(session, choice):
        # A command may run on a machine whose own clock nobody looks after.
        now = await database_clock(session)
        for refused in chunk:
            verdict = Verdict("cut") if refused.cut else await replay.judge(refused.topic, refused.payload, now)
            if verdict.refusal is not None:
                await mark_refused_again(session, refused.id, verdict.refusal.code, verdict.refusal.reason)
            elif verdict.fate in ("stored", "repeated"):
                await mark_replayed(session, refused.id)
            yield refused.id, verdict


async def rehearse(session: Session, choice: Choice) -> Counter[Fate | None]:
    """How many messages would be tried (None), and how many are cut; without a trace."""
    counts = Counter[Fate | None]()
    async for chunk in chosen(session, choice):
        counts.update("cut" if refused.cut else None for refused in chunk)
    return counts
