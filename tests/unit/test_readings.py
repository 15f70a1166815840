"""The rules of the contract for a payload: what is taken, what is refused, and in which words."""

from __future__ import annotations

import calendar
import json
import math
from datetime import UTC, datetime, timedelta, timezone
from typing import Any, get_args

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import TypeAdapter, ValidationError

from config.errors import SettingsError
from config.settings import Settings
from telemetry.readings import PAYLOADS, ReadingWindow, ReasonCode, Timestamp, refusal_of, timestamp_us
from telemetry.rules import Rules
from tests.devices import meter_reading, vehicle_reading
from tests.examples import examples

METER, VEHICLE = PAYLOADS["meter"], PAYLOADS["vehicle"]

EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
FIELDS = {METER: meter_reading, VEHICLE: vehicle_reading}


def refusal(kind: TypeAdapter[Any], payload: Any) -> tuple[str, str] | None:
    """Why a payload is refused, the same as JSON text and as a parsed value; None when it is taken."""
    answers: set[tuple[str, str] | None] = set()
    for validate, form in ((kind.validate_json, json.dumps(payload)), (kind.validate_python, payload)):
        try:
            validate(form)
            answers.add(None)
        except ValidationError as error:
            answers.add(refusal_of(error))
    assert len(answers) == 1, answers
    return answers.pop()


# Values


@pytest.mark.parametrize(
    ("kind", "field", "value"),
    [
        (METER, "meterId", "x" * 100),
        (METER, "meterId", "A.z_0:9-"),
        (METER, "kwhConsumedAc", 0),
        (METER, "kwhConsumedAc", 1_000_000),
        (METER, "voltage", 0.0),
        (METER, "voltage", 1e6),
        (VEHICLE, "soc", 0),
        (VEHICLE, "soc", 99.99),
        (VEHICLE, "soc", 100),
        (VEHICLE, "kwhDeliveredDc", 1e-300),
        (VEHICLE, "batteryTemp", -100),
        (VEHICLE, "batteryTemp", 200),
        (METER, "timestamp", "2026-01-31T14:00:00Z"),
        (METER, "timestamp", "2026-01-31T14:00:00.1+05:30"),
        (METER, "timestamp", "2024-02-29T23:59:59.123456-23:59"),
        (METER, "timestamp", "2026-01-31t14:00:00z"),
        (METER, "timestamp", "2026-01-31T14:00:00.1234567Z"),
        (METER, "timestamp", "2026-01-31T14:00:00.123456789+01:00"),
    ],
)
def test_what_the_contract_allows(kind: TypeAdapter[Any], field: str, value: Any) -> None:
    assert refusal(kind, FIELDS[kind](**{field: value})) is None


@pytest.mark.parametrize(
    ("kind", "field", "value"),
    [
        (METER, "meterId", ""),
        (METER, "meterId", "x" * 101),
        (METER, "meterId", "METER 001"),
        (METER, "meterId", "METER-001\n"),
        (METER, "meterId", "METER-٣"),
        (METER, "meterId", 7),
        (METER, "kwhConsumedAc", -0.0001),
        (METER, "kwhConsumedAc", 1_000_000.001),
        (METER, "kwhConsumedAc", "1"),
        (METER, "kwhConsumedAc", True),
        (METER, "kwhConsumedAc", None),
        (METER, "kwhConsumedAc", [1]),
        (METER, "voltage", math.nan),
        (METER, "voltage", math.inf),
        (METER, "voltage", 10**300),
        (VEHICLE, "soc", 100.1),
        (VEHICLE, "soc", -1),
        (VEHICLE, "batteryTemp", -100.1),
        (VEHICLE, "batteryTemp", 200.1),
        (METER, "timestamp", "2026-01-31T14:00:00"),
        (METER, "timestamp", "2026-01-31 14:00:00Z"),
        (METER, "timestamp", "2026-01-31T14:00Z"),
        (METER, "timestamp", "2026-01-31T14:00:00.Z"),
        (METER, "timestamp", "2026-01-31T14:00:00,5Z"),
        (METER, "timestamp", "2026-01-31T14:00:60Z\n"),
        (METER, "timestamp", "2026-W05-6T14:00:00Z"),
        (METER, "timestamp", "20260131T140000Z"),
        (METER, "timestamp", "2026-01-31T14:00:00-00:00Z"),
        (METER, "timestamp", "2026-01-31T14:00:00ZZ"),
        (METER, "timestamp", "2026-01-31T14:00:00+0100"),
        (METER, "timestamp", "2026-01-31T14:00:00+24:00"),
        (METER, "timestamp", "2026-01-31T14:00:00+00:60"),
        (METER, "timestamp", "2026-01-31T24:00:00Z"),
        (METER, "timestamp", "٢٠٢٦-01-31T14:00:00Z"),
        (METER, "timestamp", "1769868000"),
        (METER, "timestamp", 1769868000),
    ],
)
def test_a_value_that_is_not_as_promised_is_refused_by_name(kind: TypeAdapter[Any], field: str, value: Any) -> None:
    code, sentence = refusal(kind, FIELDS[kind](**{field: value})) or ("", "")
    assert code == "invalid_value"
    assert sentence.startswith(f"{field}: ")


def test_missing_and_unknown_fields_are_a_matter_of_shape() -> None:
    payload = meter_reading(extra=1)
    del payload["voltage"]
    assert refusal(METER, payload) == ("invalid_shape", "voltage is missing; extra is not a field of this reading")
    assert refusal(METER, vehicle_reading()) is not None
    for other in ([], [meter_reading()], None, "x", 1, True):
        assert refusal(METER, other) == ("invalid_shape", "a JSON object, or an array of them, is expected")


def test_every_bad_field_is_named() -> None:
    code, sentence = refusal(VEHICLE, vehicle_reading(soc=101, batteryTemp="hot", timestamp="now")) or ("", "")
    assert code == "invalid_value"
    assert [part.split(":")[0] for part in sentence.split("; ")] == ["soc", "batteryTemp", "timestamp"]
    assert "like 2026-01-31T14:00:00Z" in sentence


def test_of_a_duplicate_key_the_last_wins() -> None:
    text = json.dumps(meter_reading(voltage=1)).replace('"voltage": 1', '"voltage": 1, "voltage": 2')
    assert METER.validate_json(text)["voltage"] == 2


@pytest.mark.parametrize("text", ["", "{", "{'a': 1}", '{"a": 01}', '{"a": "\\ud800"}', "\ufeff{}", "nil", "{}{}"])
def test_what_is_no_json_is_called_that(text: str) -> None:
    with pytest.raises(ValidationError) as raised:
        METER.validate_json(text)
    code, sentence = refusal_of(raised.value)
    assert code == "invalid_json"
    assert sentence


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(max_size=9),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=9), inner, max_size=4),
    max_leaves=8,
)
ALMOST = st.dictionaries(st.sampled_from([*meter_reading(), "other"]), JSON, max_size=6)


@settings(max_examples=examples(300))
@given(payload=JSON | ALMOST)
def test_whatever_is_sent_gets_one_line_of_plain_text(payload: Any) -> None:
    verdict = refusal(METER, payload)
    if verdict is not None:
        code, sentence = verdict
        assert code in get_args(ReasonCode)
        assert sentence.isascii()
        assert sentence.isprintable()
        assert 0 < len(sentence) < 3000
        assert not sentence.startswith(" ")


def test_a_sender_cannot_make_the_reason_long() -> None:
    _, sentence = refusal(METER, {"x" * 10_000 + str(number): 1 for number in range(1000)}) or ("", "")
    assert len(sentence) < 3000


# Timestamps

OFFSETS = st.integers(-1439, 1439).map(lambda minutes: timezone(timedelta(minutes=minutes)))


@settings(max_examples=examples(1000))
@given(microseconds=st.integers(0, 7_258_118_400_000_000), offset=OFFSETS)
def test_a_timestamp_is_exact_to_the_microsecond(microseconds: int, offset: timezone) -> None:
    moment = (EPOCH + timedelta(microseconds=microseconds)).astimezone(offset)
    assert timestamp_us(moment.isoformat()) == microseconds


@pytest.mark.parametrize(
    ("text", "microseconds"),
    [
        ("1970-01-01T00:00:00Z", 0),
        ("1969-12-31T23:59:59.999999Z", -1),
        ("2026-01-31T14:00:00.5Z", 1_769_868_000_500_000),
        ("2026-01-31T15:00:00.000001+01:00", 1_769_868_000_000_001),
        ("2110-05-01T15:33:58.801661Z", 4_428_401_638_801_661),  # float seconds times a million: ...660
    ],
)
def test_timestamps_in_microseconds(text: str, microseconds: int) -> None:
    assert timestamp_us(text) == microseconds


def by_hand(text: str) -> int:
    """A slow reading of RFC 3339: the calendar's seconds, the first six digits, the offset taken off."""
    date, time = text[:10], text[11:]
    year, month, day = map(int, date.split("-"))
    hours, minutes, seconds = map(int, time[:8].split(":"))
    rest = time[8:].upper()
    digits = rest[1:].split("Z")[0].split("+")[0].split("-")[0] if rest.startswith(".") else ""
    offset = rest[-6:] if not rest.endswith("Z") else "+00:00"
    shift = (int(offset[1:3]) * 60 + int(offset[4:])) * (-1 if offset[0] == "-" else 1)
    if not (1 <= month <= 12 and 1 <= day <= calendar.monthrange(year, month)[1] and seconds < 60):
        raise ValueError(text)
    whole = calendar.timegm((year, month, day, hours, minutes, seconds)) - shift * 60
    return whole * 1_000_000 + int((digits + "000000")[:6])


FORMS = st.builds(
    "{:04}-{:02}-{:02}{}{:02}:{:02}:{:02}{}{}".format,
    st.integers(1, 9999),
    st.integers(1, 12),
    st.integers(1, 31),
    st.sampled_from("Tt"),
    st.integers(0, 23),
    st.integers(0, 59),
    st.integers(0, 61),
    st.just("") | st.text("0123456789", min_size=1, max_size=30).map(".{}".format),
    st.sampled_from("Zz")
    | st.builds("{}{:02}:{:02}".format, st.sampled_from("+-"), st.integers(0, 23), st.integers(0, 59)),
)


@settings(max_examples=examples(2000))
@given(text=FORMS)
def test_rfc_3339_in_full_is_read_as_by_hand(text: str) -> None:
    TypeAdapter(Timestamp).validate_python(text)
    try:
        expected = by_hand(text)
    except ValueError:
        with pytest.raises(ValueError, match=r"."):
            timestamp_us(text)
        return
    assert timestamp_us(text) == expected


@settings(max_examples=examples(1000))
@given(
    text=st.from_regex(r"\A[0-9]{4}-[01][0-9]-[0-3][0-9]T[0-2][0-9]:[0-9]{2}:[0-6][0-9](Z|[+-][0-2][0-9]:[0-9]{2})\Z")
)
def test_a_timestamp_of_the_right_form_is_a_moment_or_a_value_error(text: str) -> None:
    try:
        TypeAdapter(Timestamp).validate_python(text)
        microseconds = timestamp_us(text)
    except ValueError:
        return
    moment = datetime.fromisoformat(text)
    assert (
        microseconds
        == (calendar.timegm(moment.timetuple()) - (moment.utcoffset() or timedelta()).total_seconds()) * 1_000_000
    )


@pytest.mark.parametrize(
    "text", ["0001-01-01T00:00:00+23:59", "9999-12-31T23:59:59.999999-23:59", "9999-12-31T23:59:59.999999+23:59"]
)
def test_the_ends_of_time_are_outside_the_window_and_nothing_worse(text: str) -> None:
    window = ReadingWindow.around(1_769_868_000.0, max_skew_seconds=300, max_age_days=30)
    code, _ = window.refusal(text, timestamp_us(text)) or ("", "")
    assert code == ("too_old" if text.startswith("0001") else "clock_skew")


@pytest.mark.parametrize("text", ["2026-02-30T00:00:00Z", "0000-01-01T00:00:00Z", "2026-13-01T00:00:00Z"])
def test_a_day_that_does_not_exist(text: str) -> None:
    with pytest.raises(ValueError, match=r"."):
        timestamp_us(text)


def test_the_window_includes_both_ends() -> None:
    window = ReadingWindow.around(1_769_868_000.0, max_skew_seconds=300, max_age_days=30)
    assert window.latest_us == 1_769_868_300_000_000
    assert window.earliest_us == 1_767_276_000_000_000
    for inside in (window.earliest_us, window.latest_us):
        assert window.refusal("x", inside) is None
    assert (window.refusal("x", window.latest_us + 1) or ("",))[0] == "clock_skew"
    assert (window.refusal("x", window.earliest_us - 1) or ("",))[0] == "too_old"


@pytest.mark.parametrize(
    ("seconds", "reason"),
    [
        (7200, "2 h ahead of our clock; 300 s are allowed"),
        (300.000001, "5 min 1 s ahead of our clock; 300 s are allowed"),
        (90_061, "1 day 1 h ahead of our clock; 300 s are allowed"),
        (-45 * 86_400, "45 days old; 30 days are taken"),
        (-30 * 86_400 - 0.000001, "30 days 1 s old; 30 days are taken"),
    ],
)
def test_a_reason_names_the_limit_and_the_distance(seconds: float, reason: str) -> None:
    now = 1_769_868_000
    window = Rules().window(now)
    _, sentence = window.refusal("T", now * 1_000_000 + round(seconds * 1_000_000)) or ("", "")
    assert sentence == f"timestamp T is {reason}"


def test_a_timestamp_cannot_make_the_reason_long() -> None:
    text = "2027-01-31T14:00:00." + "1" * 500_000 + "Z"
    _, sentence = Rules().window(1_769_868_000).refusal(text, timestamp_us(text)) or ("", "")
    assert len(sentence) < 200


# What settings change


def test_energy_beyond_a_setting_is_refused_by_the_name_of_the_setting() -> None:
    rules = Rules(max_kwh={"meter": 500})
    meter, vehicle = rules.payloads["meter"], rules.payloads["vehicle"]
    assert refusal(meter, meter_reading(kwhConsumedAc=500)) is None
    assert refusal(meter, meter_reading(kwhConsumedAc=98765.4)) == (
        "invalid_value",
        "kwhConsumedAc: 98765.4 kWh came; METER_MAX_KWH lets 500 be the most",
    )
    assert refusal(meter, meter_reading(voltage=501)) is None
    assert refusal(vehicle, vehicle_reading(kwhDeliveredDc=501)) is None
    code, sentence = refusal(meter, meter_reading(kwhConsumedAc=10**300)) or ("", "")
    assert (code, "METER_MAX_KWH" in sentence) == ("invalid_value", True)
    _, sentence = refusal(METER, meter_reading(kwhConsumedAc=1_000_001)) or ("", "")
    assert "METER_MAX_KWH" not in sentence


@pytest.mark.parametrize("limits", [{"metre": 5.0}, {"meter": 1_000_000.5}])
def test_a_limit_of_no_kind_or_above_the_contracts_is_a_mistake_in_the_settings(limits: dict[str, float]) -> None:
    with pytest.raises(SettingsError, match=r"^MET(ER|RE)_MAX_KWH: "):
        Rules.from_settings(Settings(max_kwh=limits))
