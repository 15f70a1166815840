"""Publishes refused messages once more, to their own topics, after whatever refused them was put right.

A message counts as replayed only when the broker has acknowledged it with success. Killed in between, it is replayed
again by the next run, which is harmless: a reading is stored once.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field

from psycopg import AsyncConnection
from psycopg.rows import TupleRow

from ingestor.rejected.quarantine import CHUNK_ROWS, Choice, chosen, mark_replayed
from mqtt.errors import LinkError, LinkLost
from mqtt.link import Link


@dataclass
class Outcome:
    """What became of the chosen messages, by id; `failed` says why, in the broker's words."""

    replayed: list[int] = field(default_factory=list)
    cut: list[int] = field(default_factory=list)
    failed: list[int] = field(default_factory=list)
    reasons: Counter[str] = field(default_factory=Counter)
    lost: LinkError | None = None
    """Set when the link was lost, which ended the replay early."""


async def rehearse(connection: AsyncConnection[TupleRow], choice: Choice) -> Outcome:
    """What `replay` would try, without a broker and without a trace."""
    outcome = Outcome()
    async for chunk in chosen(connection, choice):
        outcome.cut += [refused.id for refused in chunk if refused.cut]
        outcome.replayed += [refused.id for refused in chunk if not refused.cut]
    return outcome


async def replay(connection: AsyncConnection[TupleRow], link: Link, choice: Choice) -> Outcome:
    """Publish what `choice` names, oldest first. The connection must be in autocommit mode, the link connected."""
    outcome = Outcome()
    async for chunk in chosen(connection, choice):
        whole = [refused for refused in chunk if not refused.cut]
        outcome.cut += [refused.id for refused in chunk if refused.cut]
        errors = await publish_all(link, [(refused.topic, refused.payload) for refused in whole])
        answers = list(zip(whole, errors, strict=True))
        acknowledged = [refused.id for refused, error in answers if error is None]
        await mark_replayed(connection, acknowledged)
        outcome.replayed += acknowledged
        outcome.failed += [refused.id for refused, error in answers if error is not None]
        outcome.reasons.update(str(error) for error in errors if error is not None)
        outcome.lost = next((error for error in errors if isinstance(error, LinkLost)), None)
        if outcome.lost is not None:
            break
    return outcome


async def publish_all(link: Link, messages: Sequence[tuple[str, bytes]]) -> list[LinkError | None]:
    """Publish (topic, payload) pairs in portions; what went wrong with each, in the broker's words."""
    errors: list[LinkError | None] = []
    for start in range(0, len(messages), CHUNK_ROWS):
        portion = messages[start : start + CHUNK_ROWS]
        errors += await asyncio.gather(*(_publish(link, topic, payload) for topic, payload in portion))
    return errors


async def _publish(link: Link, topic: str, payload: bytes) -> LinkError | None:
    try:
        await link.publish(topic, payload, qos=1)
    except LinkError as error:
        return error
    return None
