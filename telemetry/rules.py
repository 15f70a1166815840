"""What one set-up takes of what the contract allows: how early, how late, how much energy, which fields.

Made once from the settings, and the same for MQTT and HTTP.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

from pydantic import TypeAdapter

from config.errors import SettingsError
from config.settings import Settings
from telemetry.kinds import BY_NAME, KINDS
from telemetry.readings import PAYLOADS, ReadingWindow, payload_type


@dataclass(frozen=True)
class Rules:
    """The rules that settings may change, each with its default."""

    max_skew_seconds: float = 300
    max_age_days: float = 30
    max_kwh: Mapping[str, float] = field(default_factory=dict)
    """Most energy of one reading, by the name of its kind; where there is none, as much as the contract allows."""
    takes_unknown_fields: bool = False

    @classmethod
    def from_settings(cls, settings: Settings) -> Rules:
        """Raises SettingsError for a limit of a kind that there is not, or one above the contract's."""
        for name, limit in settings.max_kwh.items():
            if name not in BY_NAME or not BY_NAME[name].energies:
                known = " and ".join(kind.max_kwh_setting for kind in KINDS if kind.energies)
                raise SettingsError(f"{name.upper()}_MAX_KWH: no kind of reading has this limit; there are {known}")
            most = min(measure.most for measure in BY_NAME[name].energies)
            if limit > most:
                raise SettingsError(f"{name.upper()}_MAX_KWH: must be at most {most:g}, which no reading may exceed")
        return cls(
            max_skew_seconds=settings.max_clock_skew_seconds,
            max_age_days=settings.reading_age_max_days,
            max_kwh=settings.max_kwh,
            takes_unknown_fields=settings.unknown_fields == "ignore",
        )

    @cached_property
    def payloads(self) -> Mapping[str, TypeAdapter[dict[str, Any]]]:
        """What validates a reading, by the name of its kind; unknown fields that are taken are in the result."""
        if not self.max_kwh and not self.takes_unknown_fields:
            return PAYLOADS
        return {
            kind.name: TypeAdapter(payload_type(kind, self.max_kwh.get(kind.name), extra=self.takes_unknown_fields))
            for kind in KINDS
        }

    def window(self, now: float) -> ReadingWindow:
        """Which timestamps are taken at `now` (seconds since 1970)."""
        return ReadingWindow.around(now, max_skew_seconds=self.max_skew_seconds, max_age_days=self.max_age_days)
