"""Rows in PostgreSQL's binary formats: a COPY stream and arrays, for just the types that a flush sends.

Hand-made because this is the hottest code on the way to the database: psycopg's `write_row` costs about three times as
much a row, and its generic array dumper more again (figures in docs/benchmarks.md). The formats are PostgreSQL's
documented ones ("Binary Format" of COPY, and `array_recv`), unchanged since 7.4.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from struct import Struct, pack
from typing import Any

from psycopg import AsyncConnection
from psycopg.abc import Buffer
from psycopg.adapt import Dumper
from psycopg.pq import Format
from psycopg.rows import TupleRow

from ingestor.batch import Row

# Timestamps travel as microseconds since 2000-01-01 UTC.
POSTGRES_EPOCH_US = 946_684_800_000_000

COPY_HEADER = b"PGCOPY\n\xff\r\n\x00" + bytes(8)
COPY_END = b"\xff\xff"
# Rows per write: long enough to be cheap, short enough that the event loop hears the broker in between (some 2 ms).
ROWS_PER_CHUNK = 4096
# Devices whose head of a row is remembered, of each kind: 200 bytes each.
HEADS_MAX = 200_000

_TEXT_OID, _FLOAT8_OID, _TIMESTAMPTZ_OID = 25, 701, 1184
_TEXT_ARRAY_OID, _FLOAT8_ARRAY_OID, _TIMESTAMPTZ_ARRAY_OID = 1009, 1022, 1185

_field_count_and_id_length = Struct(">hi").pack
_array_header = Struct(">iiiii").pack
_length = Struct(">i").pack


class TextArray(bytes):
    """A `text[]` parameter, already in binary."""

    __slots__ = ()


class Float8Array(bytes):
    """A `double precision[]` parameter, already in binary."""

    __slots__ = ()


class TimestamptzArray(bytes):
    """A `timestamptz[]` parameter, already in binary."""

    __slots__ = ()


class _AsItIs(Dumper):
    format = Format.BINARY

    def dump(self, obj: bytes) -> Buffer:
        return obj


class _TextArrayDumper(_AsItIs):
    oid = _TEXT_ARRAY_OID


class _Float8ArrayDumper(_AsItIs):
    oid = _FLOAT8_ARRAY_OID


class _TimestamptzArrayDumper(_AsItIs):
    oid = _TIMESTAMPTZ_ARRAY_OID


def register(connection: AsyncConnection[TupleRow]) -> None:
    """Teach a connection the three array types."""
    connection.adapters.register_dumper(TextArray, _TextArrayDumper)
    connection.adapters.register_dumper(Float8Array, _Float8ArrayDumper)
    connection.adapters.register_dumper(TimestamptzArray, _TimestamptzArrayDumper)


def copy_stream(rows: Sequence[Row]) -> Iterator[bytes]:
    """Rows as a binary COPY of (text, timestamptz, double precision...), in chunks.

    0.35 µs a row: one dict look-up, one `Struct.pack`, one concatenation.
    """
    yield COPY_HEADER
    if rows:
        numbers = len(rows[0]) - 2
        heads = _heads.setdefault(numbers, _Heads(2 + numbers))
        if len(heads) > HEADS_MAX:
            heads.clear()
        encode = _ENCODERS.get(numbers, _encode_any)
        pack_rest = Struct(">iq" + "id" * numbers).pack
        for start in range(0, len(rows), ROWS_PER_CHUNK):
            yield b"".join(encode(heads, pack_rest, rows[start : start + ROWS_PER_CHUNK]))
    yield COPY_END


# Spelt out for the shapes that there are: unpacking a row of any length doubles the cost.


def _encode_two(heads: _Heads, pack_rest: Callable[..., bytes], rows: Sequence[Any]) -> list[bytes]:
    return [
        heads[device_id] + pack_rest(8, ts_us - POSTGRES_EPOCH_US, 8, first, 8, second)
        for device_id, ts_us, first, second in rows
    ]


def _encode_three(heads: _Heads, pack_rest: Callable[..., bytes], rows: Sequence[Any]) -> list[bytes]:
    return [
        heads[device_id] + pack_rest(8, ts_us - POSTGRES_EPOCH_US, 8, first, 8, second, 8, third)
        for device_id, ts_us, first, second, third in rows
    ]


def _encode_any(heads: _Heads, pack_rest: Callable[..., bytes], rows: Sequence[Any]) -> list[bytes]:
    encoded = []
    for device_id, ts_us, *numbers in rows:
        fields: list[float] = [8] * (2 * len(numbers))
        fields[1::2] = numbers
        encoded.append(heads[device_id] + pack_rest(8, ts_us - POSTGRES_EPOCH_US, *fields))
    return encoded


_ENCODERS = {2: _encode_two, 3: _encode_three}
"""By the number of measures."""


class _Heads(dict[str, bytes]):
    """How a row begins, by device: the number of its fields and the id; kept, as devices report again and again."""

    def __init__(self, fields: int) -> None:
        super().__init__()
        self._fields = fields

    def __missing__(self, device_id: str) -> bytes:
        encoded = device_id.encode()
        head = self[device_id] = _field_count_and_id_length(self._fields, len(encoded)) + encoded
        return head


_heads: dict[int, _Heads] = {}
"""By the number of measures."""


def columns(
    rows: Sequence[Row],
) -> tuple[TextArray | TimestamptzArray | Float8Array, ...]:
    """Rows as one array parameter a column."""
    ids, times, *numbers = zip(*rows, strict=True)
    return (text_array(ids), timestamptz_array(times), *(float8_array(column) for column in numbers))


def text_array(values: Sequence[str]) -> TextArray:
    """`text[]` of strings without NUL."""
    parts = [_array_header(1, 0, _TEXT_OID, len(values), 1)]
    for value in values:
        encoded = value.encode()
        parts += (_length(len(encoded)), encoded)
    return TextArray(b"".join(parts))


def float8_array(values: Sequence[float]) -> Float8Array:
    """`double precision[]`."""
    return Float8Array(_array_header(1, 0, _FLOAT8_OID, len(values), 1) + _of_eight_bytes("d", values))


def timestamptz_array(values_us: Sequence[int]) -> TimestamptzArray:
    """`timestamptz[]` of microseconds since 1970."""
    shifted = [value - POSTGRES_EPOCH_US for value in values_us]
    return TimestamptzArray(_array_header(1, 0, _TIMESTAMPTZ_OID, len(shifted), 1) + _of_eight_bytes("q", shifted))


def _of_eight_bytes(code: str, values: Sequence[float] | Sequence[int]) -> bytes:
    interleaved: list[float] = [8] * (2 * len(values))
    interleaved[1::2] = values
    return pack(">" + f"i{code}" * len(values), *interleaved)
