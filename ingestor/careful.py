"""A message that is not one valid reading, taken apart with care: an array, or something to refuse, and why.

A sender chooses what is in here, so the work is bounded by the payload's 1 MB: what is too odd is refused before it is
described, and only what is kept is described at all. Nothing here raises for what a device sent but Refused.
"""

from __future__ import annotations

import gc
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from pydantic import ValidationError
from pydantic_core import from_json, to_json

from ingestor.reader import Reader
from ingestor.receipts.receipt import Receipt
from telemetry.readings import PAYLOAD_BYTES_MAX, ReadingWindow, ReasonCode, refusal_of, timestamp_us, without_surplus

# Payloads from here on are read without the garbage collector: 1 MB of JSON can hold 500,000 lists, and looking for
# cycles among them, where there can be none, takes ten times as long as reading them.
LARGE_BYTES = 4096


class Refused(Exception):  # noqa: N818 - a verdict on a message, not a mistake of ours
    """Why a message, or an item of an array, is not stored."""

    def __init__(self, code: ReasonCode, reason: str) -> None:
        super().__init__(reason)
        self.code: ReasonCode = code
        self.reason = reason


def parsed(payload: bytes) -> Any:  # noqa: ANN401 - whatever a device may send
    """The JSON value of a payload that is within the limits. Raises Refused."""
    if not payload:
        raise Refused("empty", "the message has no payload")
    if len(payload) > PAYLOAD_BYTES_MAX:
        raise Refused("too_large", f"{len(payload)} bytes; at most {PAYLOAD_BYTES_MAX} are taken")
    try:
        content = from_json(payload)
    except ValueError as error:
        raise Refused("invalid_json", f"not JSON: {error}") from None
    if isinstance(content, list) and not content:
        raise Refused("empty", "the array is empty")
    return content


def validated(reader: Reader, device_id: str, item: object, window: ReadingWindow) -> tuple[Any, int]:
    """The reading that one JSON value is, and its timestamp in µs since 1970. Raises Refused, or pydantic's
    ValidationError, which `described` explains where somebody will read it.
    """
    reading = reader.payload.validate_python(item)
    try:
        ts_us = timestamp_us(reading["timestamp"])
    except ValueError as error:
        raise Refused("invalid_value", f"timestamp: {error}") from None
    if reading[reader.id_field] != device_id:
        raise Refused(
            "id_mismatch", f"{reader.id_field} is {reading[reader.id_field]}, the topic's id is {device_id[:100]!a}"
        )
    refusal = window.refusal(reading["timestamp"], ts_us)
    if refusal is not None:
        raise Refused(*refusal)
    return reading, ts_us


def with_shape(items: list[Any], reader: Reader) -> list[Any]:
    """Those that have the fields of a reading, all of them and no others but where these are taken: 0.05 µs an item."""
    fields = reader.fields
    if reader.takes_unknown_fields:
        return [item for item in items if type(item) is dict and item.keys() >= fields]
    return [item for item in items if type(item) is dict and item.keys() == fields]


def without_shape(items: list[Any], reader: Reader) -> list[Any]:
    """The others."""
    fields = reader.fields
    if reader.takes_unknown_fields:
        return [item for item in items if type(item) is not dict or not item.keys() >= fields]
    return [item for item in items if type(item) is not dict or item.keys() != fields]


def places(items: list[Any], chosen: list[Any]) -> list[int]:
    """Where in `items` those of `with_shape`, or `without_shape`, are."""
    ids = set(map(id, chosen))
    return [place for place, item in enumerate(items) if id(item) in ids]


def tell_shapeless(receipt: Receipt, items: list[Any], shapeless: list[Any], reader: Reader) -> None:
    """Note those of `without_shape` in the receipt, and why as long as it lists them."""
    told = 0
    for place, item in zip(places(items, shapeless), shapeless, strict=True):
        if receipt.is_full:
            break
        refused = described(item, reader)
        receipt.refuse(place, refused.code, refused.reason)
        told += 1
    receipt.omitted += len(shapeless) - told


def described(item: object, reader: Reader) -> Refused:
    """Why a JSON value that is no valid reading is refused, field by field: some 15 µs."""
    try:
        reader.payload.validate_python(without_surplus(reader.name, item))
    except ValidationError as error:
        return Refused(*refusal_of(error))
    return Refused("invalid_shape", "not a reading of this kind")


def as_payload(item: object) -> bytes:
    """An item of an array as a payload of its own."""
    try:
        return to_json(item, inf_nan_mode="constants")
    except ValueError:  # deeper than it can be written
        return repr(item).encode("utf-8", "backslashreplace")


@contextmanager
def uncollected(size: int) -> Iterator[None]:
    """Without the garbage collector where a payload of `size` bytes is large."""
    if size < LARGE_BYTES or not gc.isenabled():
        yield
        return
    gc.disable()
    try:
        yield
    finally:
        gc.enable()
