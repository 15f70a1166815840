"""A third kind of reading, for tests: a solar inverter, as somebody would declare it in telemetry/kinds.py."""

from __future__ import annotations

from telemetry.kinds import Kind, Measure

INVERTER = Kind(
    name="inverter",
    id_prefix="INV-",
    meaning="AC energy (kWh) generated since the previous reading, AC power (kW), panel temperature (°C).",
    measures=(
        Measure(
            name="kwhGeneratedAc",
            column="kwh_generated_ac",
            unit="kWh",
            least=0,
            most=1_000_000,
            use="sum",
            meaning="AC energy since the previous reading",
            typical=(0.0, 0.08),
            example=0.0412,
        ),
        Measure(
            name="acPower",
            column="ac_power",
            unit="kW",
            least=0,
            most=1_000_000,
            use="mean",
            meaning="AC power",
            typical=(0.0, 5.0),
            example=2.47,
        ),
        Measure(
            name="panelTemp",
            column="panel_temp",
            unit="°C",
            least=-100,
            most=200,
            use="newest",
            meaning="panel temperature",
            typical=(10.0, 65.0),
            example=41.5,
        ),
    ),
)
