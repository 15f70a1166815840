"""The charging model: what one charger and the vehicle at it do in a stretch of time.

Pure and seeded: the same charger, battery, seconds and random generator give the same result; no clock, no I/O. It
must never yield a meter reading whose AC energy is not more than the DC energy of the same stretch.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from random import Random
from typing import Final, Literal, NamedTuple

Health = Literal["healthy", "warning", "critical"]

# By the place of a charger in the fleet, so that ten chargers show every health: seven healthy, two warning, one
# critical, and the first three are not all the same.
HEALTH_BY_PLACE: Final[tuple[Health, ...]] = (
    "healthy",
    "healthy",
    "warning",
    "healthy",
    "healthy",
    "critical",
    "healthy",
    "warning",
    "healthy",
    "healthy",
)
# DC over AC. The contract's limits are 0.85 and 0.70; these keep a distance that neither the noise of a reading nor the
# standby power of the charger bridges.
EFFICIENCY_RANGES: Final[dict[Health, tuple[float, float]]] = {
    "healthy": (0.88, 0.95),
    "warning": (0.74, 0.82),
    "critical": (0.56, 0.66),
}
EFFICIENCY_NOISE: Final = 0.004

# Wall boxes on one and three phases (kW), and the batteries of small and large cars (kWh).
POWER_KW_CHOICES: Final = (7.4, 11.0, 22.0)
CAPACITY_KWH_RANGE: Final = (40.0, 90.0)
# From here on (soc) the charging power falls, linearly, to this share of the full power at soc 100.
TAPER_FROM_RANGE: Final = (72.0, 82.0)
TAPER_END_SHARE: Final = 0.12
# What the charger's electronics draw, car or no car: AC stays above DC in every stretch. Small enough that an hour with
# forty minutes of driving in it still has the ratio of the charging: 1.5 Wh against 2 kWh or more.
STANDBY_KW: Final = 0.002

START_SOC_RANGE: Final = (15.0, 75.0)
TARGET_SOC_RANGE: Final = (80.0, 100.0)
DRIVE_KW_RANGE: Final = (10.0, 25.0)
# Shorter than an hour, so that no hour of any vehicle is without charging.
DRIVE_SECONDS_RANGE: Final = (15 * 60.0, 40 * 60.0)
# Nobody drives below this soc, or away without having gained that much.
SOC_MIN: Final = 5.0
SOC_GAIN_MIN: Final = 5.0

AMBIENT_C_RANGE: Final = (12.0, 26.0)
# How much warmer than its surroundings a battery gets at full power, and how quickly it gets there.
HEATING_C: Final = 14.0
HEATING_TAU_SECONDS: Final = 25 * 60.0

NOMINAL_VOLTAGE_RANGE: Final = (234.5, 240.5)
VOLTAGE_LIMITS: Final = (230.0, 245.0)
VOLTAGE_NOISE: Final = 0.6
# At 22 kW the line to the charger loses about this much.
VOLTAGE_SAG_PER_KW: Final = 0.08

# The curve is walked a minute at a time, and a gap longer than a day (a machine that slept) counts as one day.
STEP_SECONDS_MAX: Final = 60.0
STRETCH_SECONDS_MAX: Final = 86_400.0

# Readings are rounded to what such devices report; 6 decimals of a kWh are 1 mWh.
KWH_DECIMALS: Final = 6
KWH_RESOLUTION: Final = 1e-6


@dataclass(frozen=True, slots=True)
class Charger:
    """A charger and the kind of car that stands at it; the energies are per charger, the rest is per car."""

    efficiency: float
    power_kw: float
    capacity_kwh: float
    taper_from: float
    ambient_c: float
    nominal_voltage: float


class Battery(NamedTuple):
    """Where a vehicle is in its cycle of charging and driving. A NamedTuple: one is made per step, 0.3 µs."""

    soc: float
    temperature_c: float
    target_soc: float
    """Charging ends here."""
    drive_kw: float
    """What driving takes out of the battery; 0 = plugged in."""
    drive_seconds_left: float


class Measured(NamedTuple):
    """What meter and vehicle report about one stretch of time, rounded as they report it."""

    kwh_consumed_ac: float
    voltage: float
    soc: float
    kwh_delivered_dc: float
    battery_temp: float


def health_of(place: int) -> Health:
    """The health of the charger at a place of the fleet, counted from 1."""
    return HEALTH_BY_PLACE[(place - 1) % len(HEALTH_BY_PLACE)]


def make_charger(place: int, rng: Random) -> Charger:
    """The charger at a place of the fleet, counted from 1."""
    return Charger(
        efficiency=rng.uniform(*EFFICIENCY_RANGES[health_of(place)]),
        power_kw=rng.choice(POWER_KW_CHOICES),
        capacity_kwh=rng.uniform(*CAPACITY_KWH_RANGE),
        taper_from=rng.uniform(*TAPER_FROM_RANGE),
        ambient_c=rng.uniform(*AMBIENT_C_RANGE),
        nominal_voltage=rng.uniform(*NOMINAL_VOLTAGE_RANGE),
    )


def plug_in(charger: Charger, rng: Random) -> Battery:
    """A vehicle as the simulation finds it: plugged in, somewhere below its target."""
    return Battery(
        soc=rng.uniform(*START_SOC_RANGE),
        temperature_c=charger.ambient_c + rng.uniform(0.0, HEATING_C / 2),
        target_soc=rng.uniform(*TARGET_SOC_RANGE),
        drive_kw=0.0,
        drive_seconds_left=0.0,
    )


def charging_kw(charger: Charger, soc: float) -> float:
    """DC power into the battery: constant, then falling with the soc."""
    if soc <= charger.taper_from:
        return charger.power_kw
    done = (soc - charger.taper_from) / (100.0 - charger.taper_from)
    return charger.power_kw * (1.0 - done * (1.0 - TAPER_END_SHARE))


def advance(charger: Charger, battery: Battery, seconds: float, rng: Random) -> tuple[Battery, Measured]:
    """The battery after `seconds` (> 0) and what both devices measured meanwhile. 5 µs for a stretch of one step."""
    seconds = min(seconds, STRETCH_SECONDS_MAX)
    steps = math.ceil(seconds / STEP_SECONDS_MAX)
    dc = 0.0
    for _ in range(steps):
        battery, delivered = _step(charger, battery, seconds / steps, rng)
        dc += delivered
    efficiency = charger.efficiency + rng.uniform(-EFFICIENCY_NOISE, EFFICIENCY_NOISE)
    ac = dc / efficiency + STANDBY_KW * seconds / 3600.0
    voltage = charger.nominal_voltage - VOLTAGE_SAG_PER_KW * ac * 3600.0 / seconds + rng.gauss(0.0, VOLTAGE_NOISE)
    dc_read = round(dc, KWH_DECIMALS)
    return battery, Measured(
        # In a very short stretch both could round to the same.
        kwh_consumed_ac=max(round(ac, KWH_DECIMALS), round(dc_read + KWH_RESOLUTION, KWH_DECIMALS)),
        voltage=round(min(max(voltage, VOLTAGE_LIMITS[0]), VOLTAGE_LIMITS[1]), 1),
        soc=round(battery.soc, 2),
        kwh_delivered_dc=dc_read,
        battery_temp=round(battery.temperature_c + rng.uniform(-0.1, 0.1), 1),
    )


def _step(charger: Charger, battery: Battery, seconds: float, rng: Random) -> tuple[Battery, float]:
    """One short stretch of either charging or driving, and the DC energy (kWh) delivered in it."""
    soc, temperature, target, drive_kw, drive_left = battery
    kwh_per_soc = charger.capacity_kwh / 100.0
    if drive_kw > 0.0:
        kw, delivered = drive_kw, 0.0
        soc = max(SOC_MIN, soc - kw * seconds / 3600.0 / kwh_per_soc)
        drive_left -= seconds
        if drive_left <= 0.0:
            target = min(100.0, max(rng.uniform(*TARGET_SOC_RANGE), soc + SOC_GAIN_MIN))
            drive_kw = drive_left = 0.0
    else:
        kw = charging_kw(charger, soc)
        delivered = min(kw * seconds / 3600.0, (100.0 - soc) * kwh_per_soc)
        soc = min(100.0, soc + delivered / kwh_per_soc)
        if soc >= target:
            drive_kw = rng.uniform(*DRIVE_KW_RANGE)
            drive_left = rng.uniform(*DRIVE_SECONDS_RANGE)
    settled = charger.ambient_c + HEATING_C * min(1.0, kw / POWER_KW_CHOICES[-1])
    temperature += (settled - temperature) * (1.0 - math.exp(-seconds / HEATING_TAU_SECONDS))
    return Battery(soc, temperature, target, drive_kw, drive_left), delivered
