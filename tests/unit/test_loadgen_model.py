"""The charging model: plausible devices, whatever the seed and the pace, and a fleet of every health."""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Iterator
from random import Random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from loadgen.model import (
    CAPACITY_KWH_RANGE,
    POWER_KW_CHOICES,
    TARGET_SOC_RANGE,
    Battery,
    Charger,
    Measured,
    advance,
    charging_kw,
    health_of,
    make_charger,
    plug_in,
)
from tests.examples import examples

HEALTH_LIMITS = {"healthy": (0.85, 1.0), "warning": (0.70, 0.85), "critical": (0.0, 0.70)}

seeds = st.integers(0, 2**32)
places = st.integers(1, 100_000)


def walk(place: int, seed: int, seconds: float) -> Iterator[Measured]:
    """One charger's measurements for ever, at one interval."""
    rng = Random(seed)
    charger = make_charger(place, rng)
    battery = plug_in(charger, rng)
    while True:
        battery, measured = advance(charger, battery, seconds, rng)
        yield measured


@given(places, seeds, st.lists(st.floats(0.001, 200_000), min_size=1, max_size=30))
def test_every_measurement_is_plausible(place: int, seed: int, stretches: list[float]) -> None:
    rng = Random(seed)
    charger = make_charger(place, rng)
    battery = plug_in(charger, rng)
    for seconds in stretches:
        battery, measured = advance(charger, battery, seconds, rng)
        assert 0 <= measured.kwh_delivered_dc < measured.kwh_consumed_ac <= 1_000_000
        assert measured.kwh_delivered_dc <= charger.power_kw * seconds / 3600 + 1e-6
        assert 0 <= measured.soc <= 100
        assert 0 <= measured.battery_temp <= 60
        assert 230 <= measured.voltage <= 245


@given(places, seeds, st.sampled_from([1.0, 5.0, 60.0, 600.0]))
@settings(max_examples=examples(30))
def test_a_charger_has_the_health_of_its_place(place: int, seed: int, seconds: float) -> None:
    measurements = walk(place, seed, seconds)
    taken = [next(measurements) for _ in range(200)]
    ratio = sum(one.kwh_delivered_dc for one in taken) / sum(one.kwh_consumed_ac for one in taken)
    least, most = HEALTH_LIMITS[health_of(place)]
    assert least <= ratio < most


@pytest.mark.parametrize("place", [1, 3, 6])
def test_no_hour_of_driving_hides_the_health(place: int) -> None:
    """Three days, judged at every minute over the hour before, as the API would be asked."""
    measurements = walk(place, 7, 60.0)
    least, most = HEALTH_LIMITS[health_of(place)]
    hour: deque[Measured] = deque(maxlen=60)
    for minute in range(3 * 1440):
        hour.append(next(measurements))
        if minute >= 60:
            ratio = sum(one.kwh_delivered_dc for one in hour) / sum(one.kwh_consumed_ac for one in hour)
            assert least <= ratio < most


def test_ten_chargers_show_every_health() -> None:
    assert Counter(health_of(place) for place in range(1, 11)) == {"healthy": 7, "warning": 2, "critical": 1}
    assert Counter(health_of(place) for place in range(1, 10_001))["critical"] == 1000


@given(seeds)
@settings(max_examples=examples(20))
def test_the_battery_gains_what_is_delivered_and_starts_over_after_driving(seed: int) -> None:
    rng = Random(seed)
    charger = make_charger(1, rng)
    battery = plug_in(charger, rng)
    drives = 0
    for _ in range(2000):
        before = battery
        battery, measured = advance(charger, battery, 60.0, rng)
        if before.drive_kw:
            assert measured.kwh_delivered_dc == 0
            assert battery.soc <= before.soc
        else:
            gained = (battery.soc - before.soc) / 100 * charger.capacity_kwh
            assert gained == pytest.approx(measured.kwh_delivered_dc, abs=1e-6)
            assert gained > 0
            drives += bool(battery.drive_kw)
    assert drives >= 2


@given(st.floats(0, 100), st.floats(0, 100), seeds)
def test_the_power_is_constant_and_then_falls(soc: float, other: float, seed: int) -> None:
    charger = make_charger(1, Random(seed))
    less, more = sorted((soc, other))
    assert charging_kw(charger, less) >= charging_kw(charger, more) > 0
    assert charging_kw(charger, min(soc, charger.taper_from)) == charger.power_kw


def test_a_battery_warms_while_it_charges_and_cools_to_what_it_settles_at() -> None:
    charger = Charger(0.9, 11.0, 60.0, 80.0, ambient_c=20.0, nominal_voltage=237.0)
    cold = Battery(20.0, 10.0, 90.0, 0.0, 0.0)
    hot = cold._replace(temperature_c=45.0)
    rng = Random(1)
    for _ in range(120):
        cold, _measured = advance(charger, cold, 60.0, rng)
        hot, _measured = advance(charger, hot, 60.0, rng)
        assert cold.temperature_c < 27.0 < hot.temperature_c
    assert cold.temperature_c == pytest.approx(27.0, abs=0.3)
    assert hot.temperature_c == pytest.approx(27.0, abs=0.3)


def test_the_same_seed_is_the_same_fleet() -> None:
    first, again, other = walk(4, 1, 5.0), walk(4, 1, 5.0), walk(4, 2, 5.0)
    taken = [next(first) for _ in range(50)]
    assert taken == [next(again) for _ in range(50)]
    assert taken != [next(other) for _ in range(50)]


def test_a_day_in_one_stretch_charges_no_more_than_the_cycle_allows() -> None:
    """Long stretches are walked in steps: a battery of 90 kWh does not take in 22 kW for a whole day."""
    rng = Random(3)
    charger = make_charger(1, rng)
    _, measured = advance(charger, plug_in(charger, rng), 86_400.0, rng)
    drives_at_most = 24 * 4
    assert measured.kwh_delivered_dc < CAPACITY_KWH_RANGE[1] * TARGET_SOC_RANGE[1] / 100 + drives_at_most * 17
    assert measured.kwh_delivered_dc < POWER_KW_CHOICES[-1] * 24 * 0.8
