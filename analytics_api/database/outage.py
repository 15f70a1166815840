"""Says once in the log that the database is away, and once that it is back."""

from __future__ import annotations

import logging

log = logging.getLogger(__name__)


class Outage:
    """`trouble` is None while the database is there."""

    def __init__(self, label: str) -> None:
        """`label` is the database's name in the log."""
        self._label = label
        self.trouble: str | None = None
        """What anybody may read about it."""

    def begun(self, trouble: str, reason: str) -> None:
        """A connection could not be made, or gave no answer; `reason` is for the log."""
        if trouble != self.trouble:
            log.warning("PostgreSQL at %s does not serve us: %s; trying again", self._label, reason)
        self.trouble = trouble

    def ended(self) -> None:
        """A connection was made."""
        if self.trouble is not None:
            log.info("PostgreSQL at %s serves us again", self._label)
        self.trouble = None
