"""Says once in the log that the database is away, once each reason it gives until then, and once that it is back."""

from __future__ import annotations

import logging

logger = logging.getLogger(__name__)


class Outage:
    """`trouble` is None while the database is there."""

    def __init__(self, label: str) -> None:
        """`label` is the database's name in the log."""
        self._label = label
        self._told: set[str] = set()
        self.connected = 0
        """Connections that were made so far."""
        self.trouble: str | None = None
        """What anybody may read about it."""

    def begun(self, trouble: str, reason: str) -> None:
        """A connection could not be made, or gave no answer; `reason` is for the log.

        Connections that fail side by side give different reasons in any order ("shutting down", "refused"), so each
        is told once an outage and none of them begins another one.
        """
        if not self._told:
            logger.warning("PostgreSQL at %s does not serve us: %s; trying again", self._label, reason)
        elif trouble not in self._told:
            logger.warning("PostgreSQL at %s is still away: %s", self._label, reason)
        self._told.add(trouble)
        self.trouble = trouble

    def ended(self) -> None:
        """A connection was made."""
        self.connected += 1
        if self._told:
            logger.info("PostgreSQL at %s serves us again", self._label)
        self._told.clear()
        self.trouble = None
