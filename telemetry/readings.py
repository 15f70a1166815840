"""The payloads of the contract, validated: the same rules for MQTT and HTTP.

Plain TypedDicts, because they are validated at the rate of the fleet: 1.1 µs a payload where a BaseModel costs 4.4.
Everything that is not exactly as promised is refused, with a reason code and a sentence a person understands.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from itertools import islice
from typing import Annotated, Any, Literal, cast

from pydantic import (
    ConfigDict,
    Field,
    TypeAdapter,
    ValidationError,
    ValidatorFunctionWrapHandler,
    WrapValidator,
    with_config,
)
from pydantic_core import ErrorDetails, PydanticCustomError
from typing_extensions import TypedDict  # pydantic needs this one below Python 3.12

from telemetry.kinds import KINDS, Kind, Measure

PAYLOAD_BYTES_MAX = 1_000_000
# What a payload of that size may cost. 13,000 readings are all that fit; half a million nested arrays do too, and take
# 140 ms to take apart. 80,000 unknown fields take 220 ms to be complained about, one by one.
CONTAINERS_MAX = 50_000
UNKNOWN_FIELDS_NAMED_MAX = 10

ReasonCode = Literal[
    "invalid_json",
    "invalid_shape",
    "invalid_value",
    "id_mismatch",
    "clock_skew",
    "too_old",
    "unknown_topic",
    "too_large",
    "empty",
    "database_refused",
    "conflict",
]

# [0-9], not \d: the latter also takes the digits of other scripts.
_DEVICE_ID = r"^[A-Za-z0-9._:-]{1,100}$"
DeviceId = Annotated[str, Field(pattern=_DEVICE_ID)]
DEVICE_ID_RULE = "1 to 100 characters of A-Z a-z 0-9 . _ : -"
_HH_MM = r"([01][0-9]|2[0-3]):[0-5][0-9]"
# What datetime would make of an hour 24 or an offset of 60 minutes differs from one Python to the next.
_TIMESTAMP = rf"^[0-9]{{4}}-[0-9]{{2}}-[0-9]{{2}}[Tt]{_HH_MM}:[0-9]{{2}}(\.[0-9]+)?([Zz]|[+-]{_HH_MM})$"
Timestamp = Annotated[str, Field(pattern=_TIMESTAMP)]
TIMESTAMP_RULE = "RFC 3339 with an offset, like 2026-01-31T14:00:00Z"
EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
MICROSECOND = timedelta(microseconds=1)
DAY_SECONDS = 86_400

# Of a timestamp so much is repeated in a reason: its digits may go on for 1 MB.
TIMESTAMP_CHARACTERS_SHOWN = 40


def payload_type(kind: Kind, max_kwh: float | None = None, *, extra: bool = False) -> type[Any]:
    """A reading of a kind as it arrives: its id, its measures, its timestamp, and nothing else, or `extra` fields too.

    `max_kwh` is the most energy that is taken, where that is less than what the contract allows.
    """
    fields: dict[str, Any] = {kind.id_field: DeviceId}
    for measure in kind.measures:
        most = max_kwh if max_kwh is not None and measure in kind.energies else measure.most
        bounds = Field(ge=measure.least, le=most, allow_inf_nan=False)
        fields[measure.name] = Annotated[float, bounds]
    fields["timestamp"] = Timestamp
    payload: Any = TypedDict(f"{kind.title}Payload", fields)  # type: ignore[misc]  # its name is data
    payload.__doc__ = kind.meaning
    config = ConfigDict(extra="allow" if extra else "forbid", strict=True)
    return cast(type[Any], with_config(config)(payload))


PAYLOADS: Mapping[str, TypeAdapter[dict[str, Any]]] = {kind.name: TypeAdapter(payload_type(kind)) for kind in KINDS}
"""What validates a reading, by the name of its kind."""


FIELDS: Mapping[str, frozenset[str]] = {
    kind.name: frozenset({kind.id_field, "timestamp", *(measure.name for measure in kind.measures)}) for kind in KINDS
}
"""The fields of a reading, by the name of its kind."""


def is_overfull(payload: bytes) -> bool:
    """Whether JSON holds more objects and arrays than any readings need, so that it is not worth being taken apart."""
    return payload.count(b"{") + payload.count(b"[") > CONTAINERS_MAX


def without_surplus(kind: str, item: object) -> object:
    """A JSON value with few of the fields that no reading of this kind has, so that each is worth being named."""
    known = FIELDS[kind]
    if not isinstance(item, dict) or len(item) <= len(known) + UNKNOWN_FIELDS_NAMED_MAX:
        return item
    unknown = islice((name for name in item if name not in known), UNKNOWN_FIELDS_NAMED_MAX)
    return {name: item[name] for name in (*known.intersection(item), *unknown)}


@dataclass(frozen=True)
class ReadingWindow:
    """Which timestamps are taken, in microseconds since 1970 (UTC), both ends included."""

    now: float
    """Seconds since 1970."""
    earliest_us: int
    latest_us: int

    @classmethod
    def around(cls, now: float, *, max_skew_seconds: float, max_age_days: float) -> ReadingWindow:
        """The window at `now` (seconds since 1970)."""
        return cls(
            now=now,
            earliest_us=int((now - max_age_days * DAY_SECONDS) * 1_000_000),
            latest_us=int((now + max_skew_seconds) * 1_000_000),
        )

    def refusal(self, timestamp: str, timestamp_us: int) -> tuple[ReasonCode, str] | None:
        """Why a timestamp is outside, with the limit and how far it is from ours; None when it is inside."""
        shown = timestamp[:TIMESTAMP_CHARACTERS_SHOWN]
        ahead = timestamp_us / 1_000_000 - self.now
        if timestamp_us > self.latest_us:
            limit = self.latest_us / 1_000_000 - self.now
            distance = _duration(max(ahead, limit + 1))
            return "clock_skew", f"timestamp {shown} is {distance} ahead of our clock; {limit:.0f} s are allowed"
        if timestamp_us < self.earliest_us:
            limit = self.now - self.earliest_us / 1_000_000
            distance = _duration(max(-ahead, limit + 1))
            return "too_old", f"timestamp {shown} is {distance} old; {limit / DAY_SECONDS:.3g} days are taken"
        return None


def _duration(seconds: float) -> str:
    """For people, by its two largest units: `2 h`, `45 days 3 h`."""
    left, parts = round(seconds), list[str]()
    for size, unit in ((DAY_SECONDS, "days"), (3600, "h"), (60, "min"), (1, "s")):
        count, left = divmod(left, size)
        if count:
            parts.append(f"{count} {unit[:-1] if unit == 'days' and count == 1 else unit}")
    return " ".join(parts[:2])


def timestamp_us(timestamp: str) -> int:
    """Microseconds since 1970 of a timestamp that matches `Timestamp`; what is finer is cut off.

    Raises ValueError where there is no such day or time.
    """
    try:
        moment = datetime.fromisoformat(timestamp)
    except ValueError:  # Python does not know a lower-case z
        moment = datetime.fromisoformat(timestamp.upper())
    # Exact for every year; rounding a float of seconds costs more (0.40 against 0.34 µs) and is not, from 2106 on.
    return (moment - EPOCH) // MICROSECOND


def instant(timestamp: str) -> datetime:
    """The moment of a timestamp, in UTC. Raises ValueError, or OverflowError, where there is no such day or time."""
    return EPOCH + timedelta(microseconds=timestamp_us(timestamp))


def refusal_of(error: ValidationError) -> tuple[ReasonCode, str]:
    """The reason code and one sentence for what is wrong with a single payload, every bad field named."""
    problems = error.errors(include_url=False)
    types = {problem["type"] for problem in problems}
    if "json_invalid" in types:
        return "invalid_json", problems[0]["msg"]
    code: ReasonCode = "invalid_shape" if types & _SHAPE_PROBLEMS else "invalid_value"
    return code, "; ".join(map(_sentence, problems[:10]))


_SHAPE_PROBLEMS = {"missing", "extra_forbidden", "dict_type", "invalid_key"}


def problems_of(error: ValidationError, what: str = "this reading") -> list[tuple[str, str]]:
    """Every wrong field of a single payload with what is wrong about it; "" where it is the payload as a whole."""
    return [
        (_field(problem["loc"]), _complaint(problem, _field(problem["loc"]), what))
        for problem in error.errors(include_url=False)
    ]


def told_as(rule: str) -> WrapValidator:
    """For a field that is seldom read: whatever is wrong with it is told by a rule in words, "must be …"."""

    def validate(value: object, handler: ValidatorFunctionWrapHandler) -> object:
        try:
            return handler(value)
        except ValidationError:
            raise PydanticCustomError("rule", "must be {rule}", {"rule": rule}) from None

    return WrapValidator(validate)


def _limit_set(field: str, most: float) -> str | None:
    """The setting that lets a field be `most`, where the contract would allow more."""
    limited = (kind.max_kwh_setting for kind, measure in _ENERGIES if measure.name == field and most < measure.most)
    return next(limited, None)


_ENERGIES: tuple[tuple[Kind, Measure], ...] = tuple((kind, measure) for kind in KINDS for measure in kind.energies)


def _sentence(problem: ErrorDetails) -> str:
    field = _field(problem["loc"]) or "''"
    complaint = _complaint(problem, field)
    match problem["type"]:
        case "dict_type":
            return complaint
        case "missing" | "extra_forbidden":
            return f"{field} {complaint}"
        case _:
            return f"{field}: {complaint}"


def _field(location: tuple[int | str, ...]) -> str:
    # A field's name may be the sender's invention, so it is cut and shown as plain ASCII.
    return ascii(".".join(str(part) for part in location)[:100]).strip("'\"")


_COMPLAINTS = {
    "dict_type": "a JSON object, or an array of them, is expected",
    "model_type": "a JSON object is expected",
    "missing": "is missing",
}
_RULES = {_DEVICE_ID: DEVICE_ID_RULE, _TIMESTAMP: TIMESTAMP_RULE}


def _complaint(problem: ErrorDetails, field: str, what: str = "this reading") -> str:
    match problem["type"]:
        case "dict_type" | "model_type" | "missing" as kind:
            return _COMPLAINTS[kind]
        case "extra_forbidden":
            return f"is not a field of {what}"
        case "string_pattern_mismatch" if rule := _RULES.get(problem["ctx"]["pattern"]):
            return f"must be {rule}"
        case "less_than_equal" if setting := _limit_set(field, problem["ctx"]["le"]):
            return f"{problem['input']:.15g} kWh came; {setting} lets {problem['ctx']['le']:.15g} be the most"
        case _:
            return f"{problem['msg'][0].lower()}{problem['msg'][1:]}"
