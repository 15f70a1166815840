"""What is made from the declaration of a kind: names, payloads, SQL."""

from __future__ import annotations

import re
from typing import LiteralString

import pytest
from pydantic import ValidationError

from telemetry.kinds import KINDS, METER, SQL_NAMES, VEHICLE, Kind, Measure
from telemetry.readings import PAYLOADS
from telemetry.topics import topic_of

EVERY_NAME: LiteralString = (
    "{kind} {id} {history} {status} {hourly} {measures} {as_floats} {arrays} {newer_measures} {hours} {sums}"
    " {kwh} {silent} {named_sums} {sums_of_hours}"
)


def test_the_names_of_the_contract() -> None:
    assert (METER.id_field, METER.id_column, METER.history, METER.status) == (
        "meterId",
        "meter_id",
        "meter_readings_history",
        "meter_status",
    )
    assert VEHICLE.topic_prefix + "VEH-001" == topic_of("vehicle", "VEH-001")
    assert [column for _, column in VEHICLE.summed] == ["kwh_delivered_dc", "battery_temp_sum"]


def test_a_template_may_use_every_name_and_no_other() -> None:
    assert set(re.findall(r"{(\w+)}", EVERY_NAME)) == set(SQL_NAMES)
    assert b"{" not in METER.sql(EVERY_NAME)
    with pytest.raises(KeyError):
        METER.sql("SELECT {password}")


def test_sql_is_what_one_would_write() -> None:
    assert VEHICLE.sql("SELECT {id}, {named_sums} FROM {history}") == (
        b"SELECT vehicle_id, sum(kwh_delivered_dc) AS kwh_delivered_dc, sum(battery_temp) AS battery_temp_sum"
        b" FROM vehicle_readings_history"
    )


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.name)
def test_the_example_is_taken(kind: Kind) -> None:
    PAYLOADS[kind.name].validate_python(kind.example)


@pytest.mark.parametrize(
    ("kind", "measure"), [(kind, measure) for kind in KINDS for measure in kind.measures], ids=lambda one: one.name
)
def test_both_bounds_are_taken_and_nothing_beyond(kind: Kind, measure: Measure) -> None:
    for value in (measure.least, measure.most, *measure.typical):
        PAYLOADS[kind.name].validate_python({**kind.example, measure.name: value})
    for value in (measure.least - 0.001, measure.most + 0.001):
        with pytest.raises(ValidationError):
            PAYLOADS[kind.name].validate_python({**kind.example, measure.name: value})
