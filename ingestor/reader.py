"""How a valid reading of a kind becomes a row: made from its declaration when the program starts."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from pydantic import TypeAdapter

from ingestor.batch import Row
from telemetry.kinds import Kind
from telemetry.readings import FIELDS
from telemetry.rules import Rules


@dataclass(frozen=True, slots=True)
class Reader:
    """How messages of a kind become rows."""

    name: str
    id_field: str
    payload: TypeAdapter[dict[str, Any]]
    fields: frozenset[str]
    takes_unknown_fields: bool
    row: Callable[[dict[str, Any], int], Row]
    """From a valid reading and its timestamp in µs since 1970."""

    @classmethod
    def of(cls, kind: Kind, rules: Rules) -> Reader:
        """Made once, when the program starts."""
        row = _row_maker(kind.id_field, [measure.name for measure in kind.measures])
        payload = rules.payloads[kind.name]
        return cls(kind.name, kind.id_field, payload, FIELDS[kind.name], rules.takes_unknown_fields, row)

    def row_counted(self, unknown: Counter[str]) -> Callable[[dict[str, Any], int], Row]:
        """`row`, which also counts readings with unknown fields where these are taken: 0.1 µs more, only then."""
        if not self.takes_unknown_fields:
            return self.row
        name, known, make = self.name, len(self.fields), self.row

        def row(reading: dict[str, Any], ts_us: int) -> Row:
            if len(reading) > known:
                unknown[name] += 1
            return make(reading, ts_us)

        return row


def _row_maker(device: str, measures: list[str]) -> Callable[[dict[str, Any], int], Row]:
    """Spelt out for the numbers of measures that there are: taking any number out costs twice as much."""
    match measures:
        case [first, second]:
            return lambda reading, ts_us: (reading[device], ts_us, reading[first], reading[second])
        case [first, second, third]:
            return lambda reading, ts_us: (reading[device], ts_us, reading[first], reading[second], reading[third])
        case _:
            return lambda reading, ts_us: (reading[device], ts_us, *[reading[measure] for measure in measures])
