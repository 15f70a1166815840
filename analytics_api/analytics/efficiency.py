"""DC energy delivered over AC energy consumed, and what that says about the charging hardware. No I/O."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

Health = Literal["HEALTHY", "WARNING", "CRITICAL", "UNKNOWN"]

HEALTHY_MIN = 0.85
WARNING_MIN = 0.70
# Sums of doubles are off in their last digits: 24 readings of 0.85 kWh over 24 of 1 kWh give 0.8499999999999998.
# No answer shows a difference this small.
_SUM_ERROR_MAX = 1e-9


@dataclass(frozen=True, slots=True)
class Efficiency:
    """What a period's energies say; `ratio` is not rounded, and None where no AC energy was measured."""

    ratio: float | None
    health: Health
    impossible: bool = False
    """More DC came out than AC went in, beyond the tolerance: something measures wrongly."""

    @classmethod
    def of(cls, ac_kwh: float, dc_kwh: float, tolerance: float) -> Efficiency:
        """Judge sums of kWh. Without AC energy there is nothing to judge, and what exceeds it by more than `tolerance`
        (0.02: 2 %) cannot be: UNKNOWN, never CRITICAL.
        """
        ratio = dc_kwh / ac_kwh if ac_kwh > 0 else math.nan
        if not math.isfinite(ratio):
            return cls(None, "UNKNOWN")
        if ratio - _SUM_ERROR_MAX > 1 + tolerance:
            return cls(ratio, "UNKNOWN", impossible=True)
        return cls(ratio, _judged(ratio + _SUM_ERROR_MAX))

    @property
    def judged(self) -> float | None:
        """The ratio; None where the health is UNKNOWN."""
        return None if self.health == "UNKNOWN" else self.ratio

    @property
    def rounded(self) -> float | None:
        """The ratio to 4 decimals."""
        return None if self.ratio is None else round(self.ratio, 4)

    @property
    def percent(self) -> str | None:
        """`84.72%`: the rounded ratio, so that the two never disagree."""
        return None if self.rounded is None else f"{self.rounded:.2%}"


def _judged(ratio: float) -> Health:
    if ratio >= HEALTHY_MIN:
        return "HEALTHY"
    return "WARNING" if ratio >= WARNING_MIN else "CRITICAL"
