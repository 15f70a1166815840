"""What the energies of a period say about the charging hardware."""

from __future__ import annotations

import math
from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st

from analytics_api.analytics.efficiency import Efficiency

TOLERANCE = 0.02
energies = st.floats(min_value=0, max_value=1e9)


@pytest.mark.parametrize(
    ("ac", "dc", "health", "ratio", "percent"),
    [
        (150.5, 127.5, "WARNING", 0.8472, "84.72%"),  # the contract's own example
        (100, 85, "HEALTHY", 0.85, "85.00%"),
        (10, 8.5, "HEALTHY", 0.85, "85.00%"),
        (100, 84.999, "WARNING", 0.85, "85.00%"),  # judged before rounding
        (100, 70, "WARNING", 0.7, "70.00%"),
        (100, 69.9999, "CRITICAL", 0.7, "70.00%"),
        (100, 0, "CRITICAL", 0.0, "0.00%"),
        (100, 101, "HEALTHY", 1.01, "101.00%"),  # a meter that measures too little is not ours to hide
        (100, 102, "HEALTHY", 1.02, "102.00%"),
        (100, 102.001, "UNKNOWN", 1.02, "102.00%"),  # within no tolerance: something measures wrongly
        (1, 130, "UNKNOWN", 130.0, "13000.00%"),
        (0, 0, "UNKNOWN", None, None),
        (0, 5, "UNKNOWN", None, None),
        (5e-324, 1e6, "UNKNOWN", None, None),  # a ratio beyond all doubles
        (math.nan, 1, "UNKNOWN", None, None),
        (1, math.inf, "UNKNOWN", None, None),
    ],
)
def test_thresholds(ac: float, dc: float, health: str, ratio: float | None, percent: str | None) -> None:
    efficiency = Efficiency.of(ac, dc, TOLERANCE)
    assert (efficiency.health, efficiency.rounded, efficiency.percent) == (health, ratio, percent)


@pytest.mark.parametrize("readings", [3, 6, 24, 96, 1440, 44_640])
@pytest.mark.parametrize(("share", "health"), [(0.85, "HEALTHY"), (0.7, "WARNING")])
def test_the_rounding_of_long_sums_does_not_move_a_threshold(readings: int, share: float, health: str) -> None:
    dc = ac = 0.0
    for _ in range(readings):
        ac += 1.0
        dc += share
    assert Efficiency.of(ac, dc, TOLERANCE).health == health


@given(ac=energies, dc=energies)
def test_health_agrees_with_exact_arithmetic(ac: float, dc: float) -> None:
    efficiency = Efficiency.of(ac, dc, TOLERANCE)
    slack = Fraction(1, 500_000_000)
    if efficiency.ratio is None:
        assert ac == 0 or math.isinf(dc / ac)
        return
    exact = Fraction(dc) / Fraction(ac)
    assert efficiency.impossible == (efficiency.health == "UNKNOWN")
    if efficiency.impossible:
        assert exact > Fraction(102, 100)
        return
    assert exact <= Fraction(102, 100) + slack
    if efficiency.health == "HEALTHY":
        assert exact >= Fraction(85, 100) - slack
    elif efficiency.health == "WARNING":
        assert Fraction(70, 100) - slack <= exact < Fraction(85, 100)
    else:
        assert exact < Fraction(70, 100)


@given(ac=st.floats(min_value=0.001, max_value=1e6), dc=st.floats(min_value=0, max_value=1e6))
def test_percent_and_ratio_never_disagree(ac: float, dc: float) -> None:
    efficiency = Efficiency.of(ac, dc, TOLERANCE)
    assert efficiency.rounded is not None
    assert efficiency.percent is not None
    assert float(efficiency.percent.removesuffix("%")) == pytest.approx(efficiency.rounded * 100, abs=1e-9, rel=1e-12)
