"""A row of the database as clients see it: an object of JSON, or a line of CSV. The names are those of the kind.

All of them have a device's id, its measured values, and two moments.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import isfinite

from psycopg.rows import TupleRow

from analytics_api.http.answers import number, timestamp
from telemetry.kinds import KINDS, Kind


@dataclass(frozen=True)
class Layout:
    """The names of the fields, in the order of the columns that the query reads."""

    names: tuple[str, ...]

    @classmethod
    def of(cls, kind: Kind, first: str, second: str) -> Layout:
        """For a kind, with the names of the two moments."""
        return cls((kind.id_field, *(measure.name for measure in kind.measures), first, second))

    def json(self, row: TupleRow) -> dict[str, object]:
        device_id, *values, first, second = row
        content = (device_id, *map(number, values), timestamp(first), timestamp(second))
        return dict(zip(self.names, content, strict=True))

    @property
    def csv_header(self) -> bytes:
        return (",".join(self.names) + "\r\n").encode()

    def csv(self, rows: Sequence[TupleRow]) -> bytes:
        """A line for each row. Nothing needs quotes: ids have no character that CSV or a spreadsheet reads as more."""
        lines = [
            f"{device_id},{','.join(map(_decimal, values))},{timestamp(first)},{timestamp(second)}\r\n"
            for device_id, *values, first, second in rows
        ]
        return "".join(lines).encode()


STATUS: Mapping[str, Layout] = {kind.name: Layout.of(kind, "lastReading", "lastUpdated") for kind in KINDS}
READING: Mapping[str, Layout] = {kind.name: Layout.of(kind, "timestamp", "ingestedAt") for kind in KINDS}
"""By the name of the kind."""


def _decimal(value: float) -> str:
    """As in JSON; nothing for what JSON calls null."""
    return repr(number(value)) if isfinite(value) else ""
