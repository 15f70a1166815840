"""Valid readings that neither the history nor the quarantine would take, in a file beside the process.

They are acknowledged, so nobody else has them: each is on the disk before its PUBACK, as a line of JSON that `wattline
rejected replay --file` publishes again. Bounded in bytes; it never raises, what it could not keep is counted.
"""

from __future__ import annotations

import asyncio
import base64
import json
import logging
import os
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path

from config.seldom import Seldom
from ingestor.batch import Refusal

logger = logging.getLogger(__name__)

# Some 300,000 readings: this is for the few that nothing else takes, not a second database.
BYTES_MAX = 100_000_000
PATTERN = "rejected-*.jsonl"


class Spool:
    """A folder of files, one a day; made when it is needed."""

    def __init__(self, folder: Path, bytes_max: int = BYTES_MAX) -> None:
        self.folder = folder
        self._bytes_max = bytes_max
        self._said = Seldom()

    async def keep(self, refusals: Sequence[Refusal]) -> int:
        """How many of them are on the disk now: the first ones."""
        if not refusals:
            return 0
        try:
            return await asyncio.to_thread(self._write, refusals)
        except OSError as error:
            if self._said.due("error"):
                logger.error("%s takes nothing: %s", self.folder, error.strerror or error)  # noqa: TRY400 - one line
            return 0

    def _write(self, refusals: Sequence[Refusal]) -> int:
        self.folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        room = self._bytes_max - sum(path.stat().st_size for path in self.folder.glob(PATTERN))
        lines = []
        for refusal in refusals:
            line = as_line(refusal)
            room -= len(line)
            if room < 0:
                break
            lines.append(line)
        if lines:
            path = self.folder / f"rejected-{datetime.now(UTC):%Y%m%d}.jsonl"
            descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
            with os.fdopen(descriptor, "ab") as file:
                file.write(b"".join(lines))
                file.flush()
                os.fsync(file.fileno())
        return len(lines)


def as_line(refusal: Refusal) -> bytes:
    """One line of a spool file."""
    received = datetime.fromtimestamp(refusal.received_at, UTC).isoformat()
    return (
        json.dumps(
            {
                "receivedAt": received,
                "topic": refusal.topic,
                "code": refusal.code,
                "reason": refusal.reason,
                "payloadBase64": base64.b64encode(refusal.payload).decode("ascii"),
            }
        )
        + "\n"
    ).encode("ascii")


def from_line(line: bytes) -> tuple[str, bytes]:
    """Topic and payload. Raises ValueError for what is no line of a spool file."""
    try:
        found = json.loads(line)
        topic, payload = str(found["topic"]), found["payloadBase64"]
        return topic, base64.b64decode(payload, validate=True)
    except (KeyError, TypeError) as error:
        raise ValueError("not a line of a spool file") from error
