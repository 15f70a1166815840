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

from pydantic import ConfigDict, Field, TypeAdapter, ValidationError, with_config
from typing_extensions import TypedDict  # pydantic needs this one below Python 3.12

from telemetry.kinds import KINDS, Kind

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
]

# [0-9], not \d: the latter also takes the digits of other scripts.
DeviceId = Annotated[str, Field(pattern=r"^[A-Za-z0-9._:-]{1,100}$")]
_HH_MM = r"([01][0-9]|2[0-3]):[0-5][0-9]"
Timestamp = Annotated[
    str,
    # What datetime would make of an hour 24 or an offset of 60 minutes differs from one Python to the next.
    Field(pattern=rf"^[0-9]{{4}}-[0-9]{{2}}-[0-9]{{2}}T{_HH_MM}:[0-9]{{2}}(\.[0-9]{{1,6}})?(Z|[+-]{_HH_MM})$"),
]
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_MICROSECOND = timedelta(microseconds=1)

_EXACT = ConfigDict(extra="forbid", strict=True)


def payload_type(kind: Kind) -> type[Any]:
    """A reading of a kind as it arrives: its id, its measures, its timestamp, and nothing else."""
    fields: dict[str, Any] = {kind.id_field: DeviceId}
    for measure in kind.measures:
        bounds = Field(ge=measure.least, le=measure.most, allow_inf_nan=False)
        fields[measure.name] = Annotated[float, bounds]
    fields["timestamp"] = Timestamp
    payload: Any = TypedDict(f"{kind.title}Payload", fields)  # type: ignore[misc]  # its name is data
    payload.__doc__ = kind.meaning
    return cast(type[Any], with_config(_EXACT)(payload))


PAYLOADS: Mapping[str, TypeAdapter[dict[str, Any]]] = {kind.name: TypeAdapter(payload_type(kind)) for kind in KINDS}
"""What validates a reading, by the name of its kind."""
METER = PAYLOADS["meter"]
VEHICLE = PAYLOADS["vehicle"]


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
            earliest_us=int((now - max_age_days * 86400) * 1_000_000),
            latest_us=int((now + max_skew_seconds) * 1_000_000),
        )

    def refusal(self, timestamp: str, timestamp_us: int) -> tuple[ReasonCode, str] | None:
        """Why a timestamp is outside, or None when it is inside."""
        if timestamp_us > self.latest_us:
            return "clock_skew", f"timestamp {timestamp} is too far ahead of our clock; check the device's clock"
        if timestamp_us < self.earliest_us:
            return "too_old", f"timestamp {timestamp} is older than the oldest reading that is taken"
        return None


def timestamp_us(timestamp: str) -> int:
    """Microseconds since 1970 of a timestamp that matches `Timestamp`; ValueError: there is no such day or time."""
    # Exact for every year; rounding a float of seconds costs more (0.40 against 0.34 µs) and is not, from 2106 on.
    return (datetime.fromisoformat(timestamp) - _EPOCH) // _MICROSECOND


def refusal_of(error: ValidationError) -> tuple[ReasonCode, str]:
    """The reason code and one sentence for what is wrong with a single payload, every bad field named."""
    problems = error.errors(include_url=False, include_context=False)
    types = {problem["type"] for problem in problems}
    if "json_invalid" in types:
        return "invalid_json", problems[0]["msg"]
    code: ReasonCode = "invalid_shape" if types & _SHAPE_PROBLEMS else "invalid_value"
    return code, "; ".join(_sentence(problem["type"], problem["loc"], problem["msg"]) for problem in problems[:10])


_SHAPE_PROBLEMS = {"missing", "extra_forbidden", "dict_type", "invalid_key"}


def problems_of(error: ValidationError) -> list[tuple[str, str]]:
    """Every wrong field of a single payload with what is wrong about it; "" where it is the payload as a whole."""
    return [
        (_field(problem["loc"]), _complaint(problem["type"], _field(problem["loc"]), problem["msg"]))
        for problem in error.errors(include_url=False, include_context=False)
    ]


def _sentence(kind: str, location: tuple[int | str, ...], message: str) -> str:
    field = _field(location) or "''"
    complaint = _complaint(kind, field, message)
    match kind:
        case "dict_type":
            return complaint
        case "missing" | "extra_forbidden":
            return f"{field} {complaint}"
        case _:
            return f"{field}: {complaint}"


def _field(location: tuple[int | str, ...]) -> str:
    # A field's name may be the sender's invention, so it is cut and shown as plain ASCII.
    return ascii(".".join(str(part) for part in location)[:100]).strip("'\"")


def _complaint(kind: str, field: str, message: str) -> str:
    match kind:
        case "dict_type":
            return "a JSON object, or an array of them, is expected"
        case "missing":
            return "is missing"
        case "extra_forbidden":
            return "is not a field of this reading"
        case "string_pattern_mismatch" if field.endswith("timestamp"):
            return "must be RFC 3339 with an offset, like 2026-01-31T14:00:00Z"
        case "string_pattern_mismatch":
            return "1 to 100 characters of A-Z a-z 0-9 . _ : - are allowed"
        case _:
            return f"{message[0].lower()}{message[1:]}"
