"""A kind without a model of its own: its devices, their readings and its statements follow from the declaration."""

from __future__ import annotations

import argparse
import subprocess
import sys
from itertools import pairwise
from random import Random
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from loadgen import options
from loadgen.charging import PAIR, Charging
from loadgen.model import Measured
from loadgen.payloads import Form
from loadgen.stored import HISTORY, STATUS
from loadgen.wandering import Wandering
from telemetry.kinds import KINDS, Kind, Measure
from tests.inverter import INVERTER

# Everything that loadgen does with a kind that was declared before it was imported.
DECLARED = """
import telemetry.kinds as kinds
from tests.inverter import INVERTER
kinds.KINDS += (INVERTER,)
kinds.BY_NAME = {kind.name: kind for kind in kinds.KINDS}
from random import Random
from loadgen import messages, stored
from loadgen.counts import Counts
from loadgen.fleet import make_fleet, points_of
from loadgen.evidence import Evidence
from loadgen.templates import Templates
from telemetry.readings import PAYLOADS
from wattline.cli import main

asked = {"meter": 2, "vehicle": 1, "inverter": 3}
points = make_fleet(asked, "LOAD", Random(1))
evidence, templates = Evidence(points), Templates(points, Random(1))
assert points_of(asked) == len(points) == 5, points
simulated = [one for point in points for one in point.read(1769868000000000, 5.0, Random(1))]
assert [one.device.kind for one in simulated].count("inverter") == 3
for reading in simulated + [templates.read(turn, 1769868000000000) for turn in range(6)]:
    payload = PAYLOADS[reading.device.kind].validate_json(reading.payload)
    assert payload.pop("timestamp") == "2026-01-31T14:00:00.000000Z"
    assert tuple(payload.values()) == (reading.device.id, *reading.values), payload
    for which in range(6):
        try:
            PAYLOADS[reading.device.kind].validate_json(messages.malform(reading.payload, which))
        except ValueError:
            pass
        else:
            raise AssertionError((reading, which))
evidence.add(simulated[-1])
evidence.acknowledge(simulated[-1])
assert evidence.acknowledged("inverter") == 1
assert evidence.devices["inverter"]["LOAD-INV-003"].values(0) == simulated[-1].values
assert stored.TABLES[-2:] == ["inverter_readings_history", "inverter_status"]
main(["loadgen", "--help"])
"""


def test_a_declared_kind_needs_no_change_elsewhere() -> None:
    done = subprocess.run([sys.executable, "-c", DECLARED], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")
    assert "--inverters N" in done.stdout
    assert "simulated inverters (default 0)" in done.stdout
    assert "PREFIX-INV-001" in done.stdout


def test_the_charging_model_measures_all_that_its_pair_declares() -> None:
    measured = Charging(1, Random(1)).measure(60.0, Random(1))
    assert {kind.name for kind in PAIR} == set(measured)
    for kind in PAIR:
        assert [measure.column for measure in kind.measures if measure.column not in Measured._fields] == []
        assert len(measured[kind.name]) == len(kind.measures)


@given(
    st.integers(0, 2**32),
    st.sampled_from(["sum", "mean", "newest"]),
    st.tuples(st.floats(-1e6, 1e6), st.floats(-1e6, 1e6)).map(sorted),
    st.tuples(st.floats(-1e6, 1e6), st.floats(0, 1e6)).map(sorted),
)
def test_values_wander_within_what_is_typical_and_allowed_and_energy_is_never_negative(
    seed: int, use: Any, typical: Any, allowed: Any
) -> None:
    least, most = allowed
    measure = Measure("aB", "a_b", "kWh", least, most, use, "", tuple(typical), 0.0)
    made, rng = Wandering(Kind("thing", "T-", "", (measure, measure)), Random(seed)), Random(seed)
    read = [made.measure(5.0, rng)["thing"] for _ in range(50)]
    for value in (value for values in read for value in values):
        assert least <= value <= most
        assert use != "sum" or value >= 0
        if use != "sum" and typical[0] <= most and typical[1] >= least:
            assert typical[0] <= value <= typical[1]


def test_it_moves_in_small_steps() -> None:
    made, rng = Wandering(INVERTER, Random(1)), Random(1)
    power = [made.measure(5.0, rng)["inverter"][1] for _ in range(1000)]
    least, most = INVERTER.measures[1].typical
    assert max(abs(one - other) for one, other in pairwise(power)) <= (most - least) / 10
    assert max(power) - min(power) > (most - least) / 4


def test_what_is_asked_of_the_tables_reads_like_sql() -> None:
    assert b"inverter_id::text, (extract(epoch FROM ts) * 1000000)::bigint, kwh_generated_ac::float8" in (
        INVERTER.sql(HISTORY.template)
    )
    assert b"FROM inverter_status WHERE starts_with(inverter_id, %(prefix)s)" in INVERTER.sql(STATUS.template)


@pytest.mark.parametrize("kind", [*KINDS, INVERTER], ids=lambda kind: kind.name)
def test_a_form_gives_the_payload_of_the_contract(kind: Kind) -> None:
    numbers = ",".join(f'"{measure.name}":1.5' for measure in kind.measures)
    whole = Form.of(kind).whole.format("A-1", *(1.5 for _ in kind.measures), "T")
    assert whole == f'{{"{kind.id_field}":"A-1",{numbers},"timestamp":"T"}}'


def test_the_pair_is_simulated_unless_told_otherwise_and_nothing_else_is() -> None:
    parser = argparse.ArgumentParser()
    options.configure(parser)
    assert options.devices_of(parser.parse_args([])) == {
        kind.name: (100 if kind.name in ("meter", "vehicle") else 0) for kind in KINDS
    }
