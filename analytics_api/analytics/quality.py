"""How far the figures of a vehicle can be relied on: how much was received of what was to be expected, and what spoke
against it. No I/O. It never changes a figure.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal, get_args

Status = Literal["ok", "partial", "impossible"]
Reason = Literal["meter_gap", "vehicle_gap", "ratio_above_one", "link_changed", "annulled"]
STATUSES: tuple[Status, ...] = get_args(Status)

COVERAGE_MIN = 0.9
# 24 h at an interval that was learned as 59.999999 s are 1,440 readings.
_WHOLE = 1e-6


@dataclass(frozen=True, slots=True)
class Quality:
    """What the figures of a period are made of; `paired` are the kWh (AC, DC) of the ratio where the totals differ."""

    vehicle: float | None
    meter: float | None
    reasons: tuple[Reason, ...]
    paired: tuple[float, float] | None

    @property
    def status(self) -> Status:
        """Ok where nothing speaks against the figures."""
        if "ratio_above_one" in self.reasons:
            return "impossible"
        return "partial" if self.reasons else "ok"

    def as_json(self) -> dict[str, object]:
        """The contract's form."""
        found: dict[str, object] = {
            "status": self.status,
            "coverage": {"vehicle": _rounded(self.vehicle), "meter": _rounded(self.meter)},
            "reasons": list(self.reasons),
        }
        if self.paired is not None:
            ac_kwh, dc_kwh = self.paired
            found["paired"] = {"ac": round(ac_kwh, 4), "dc": round(dc_kwh, 4)}
        return found


def coverage(readings: int, expected: float | None) -> float | None:
    """The share of the expected readings that were received, 0 to 1; None where nothing can be expected yet."""
    whole = 0 if expected is None else math.floor(expected + _WHOLE)
    return min(1.0, readings / whole) if whole > 0 else None


def is_gap(share: float | None) -> bool:
    """Whether so much is missing that the figures are partial."""
    return share is not None and share < COVERAGE_MIN


def _rounded(share: float | None) -> float | None:
    return None if share is None else round(share, 4)
