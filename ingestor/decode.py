"""From received messages to rows: validation, and a reason for everything that is refused.

Each payload is validated on its own: a payload boundary is a trust boundary, and one device's bytes must not spill into
its neighbour's reading. Nothing here raises for what a device sent, and a fault of ours costs one message its place.
"""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import groupby
from operator import attrgetter
from typing import Any, cast

import mqtt5
from pydantic import ValidationError

from config.seldom import Seldom
from ingestor.batch import VALID_CODES, Batch, Refusal, Row
from ingestor.careful import (
    LARGE_BYTES,
    Refused,
    as_payload,
    described,
    parsed,
    places,
    tell_shapeless,
    uncollected,
    validated,
    with_shape,
    without_shape,
)
from ingestor.reader import Reader
from ingestor.receipts.receipt import Receipt, asked_for
from ingestor.rejected.limit import KeepLimit
from telemetry.kinds import BY_NAME, KINDS
from telemetry.readings import ReadingWindow, ReasonCode, timestamp_us
from telemetry.rules import Rules

logger = logging.getLogger(__name__)

UNKNOWN = "unknown"
"""In the books, the kind of what cannot be taken apart."""
CLOCK_CODES: tuple[ReasonCode, ...] = ("clock_skew", "too_old")
"""Refusals that say as much about our clock as about the device's."""


@dataclass(frozen=True, slots=True)
class _KeptMessage:
    """What a refusal keeps of its message, in the place of the message."""

    topic: str
    payload: bytes
    duplicate: bool = False
    response_topic: None = None


KEEP_NONE = KeepLimit(0)
# All other exceptions cost one message its place: a codec's panic is a BaseException, too.
NOT_OURS_TO_CATCH = (KeyboardInterrupt, SystemExit)

_response_topic = attrgetter("response_topic")


@dataclass(slots=True)
class Received:
    """What a portion of messages held, by kind, for the books; what cannot be taken apart counts as one "unknown"."""

    messages: dict[str, int] = field(default_factory=lambda: {**dict.fromkeys(BY_NAME, 0), UNKNOWN: 0})
    readings: dict[str, int] = field(default_factory=lambda: {**dict.fromkeys(BY_NAME, 0), UNKNOWN: 0})
    with_care: dict[str, int] = field(default_factory=lambda: dict.fromkeys(BY_NAME, 0))
    """Rows that came the careful way, by kind."""
    with_unknown_fields: Counter[str] = field(default_factory=Counter)
    """Readings that were taken without some of their fields, by kind."""
    receipts_ignored: int = 0
    """Messages with a Response Topic that is not their device's to read."""


@dataclass(frozen=True, slots=True)
class _Portion:
    """What all messages that came together are decoded with, and into."""

    ways: Mapping[str, _Way]
    """By what a topic begins with."""
    batch: Batch
    received: Received
    window: ReadingWindow


_Way = tuple[Callable[[bytes], dict[str, Any]], str, Callable[[dict[str, Any], int], Row], list[Row]]
"""Of a kind: validator, id field, maker of rows, and the batch's rows of it."""


class Decoder:
    """Adds messages to a batch, by the rules of this set-up."""

    def __init__(self, rules: Rules, *, keep_limit: KeepLimit) -> None:
        self._rules = rules
        self._readers = {kind.topic_prefix.removesuffix("/"): Reader.of(kind, rules) for kind in KINDS}
        self._keep_limit = keep_limit
        self._faults = Seldom()

    def pause_seconds(self) -> float:
        """How long reading has to pause, so that no valid reading is refused without being kept; 0 or less: go on."""
        return self._keep_limit.pause_seconds()

    def decode(self, packets: Sequence[mqtt5.PublishPacket], batch: Batch, now: float) -> Received:
        """Add every reading of `packets` to the batch, and every refusal; `now` is seconds since 1970.

        The hot path: 1.7 µs a message with one valid reading, 1.1 of it in pydantic.
        """
        window, received = self._rules.window(now), Received()
        # The adapters' own validators: `TypeAdapter.validate_json` only hands its arguments on, for 0.3 µs.
        ways: dict[str, _Way] = {
            topic: (
                reader.payload.validator.validate_json,
                reader.id_field,
                reader.row_counted(received.with_unknown_fields),
                batch.rows[reader.name],
            )
            for topic, reader in self._readers.items()
        }
        before = {kind: len(rows) for kind, rows in batch.rows.items()}
        # Most devices never ask for a receipt, and pay 0.03 µs a message for being able to.
        if any(map(_response_topic, packets)):
            self._take_asking(packets, _Portion(ways, batch, received, window))
        else:
            self._take(packets, _Portion(ways, batch, received, window))
        for kind, rows in batch.rows.items():
            alone = len(rows) - before[kind] - received.with_care[kind]
            received.messages[kind] += alone
            received.readings[kind] += alone
        batch.received_at = batch.received_at or now
        batch.messages += len(packets)
        batch.received += sum(received.readings.values())
        return received

    def _take(self, packets: Sequence[mqtt5.PublishPacket], portion: _Portion, receipt: Receipt | None = None) -> None:
        """Add messages to the batch; `receipt` is that of the only one. The inside of the hot path."""
        ways, to_us = portion.ways, timestamp_us
        earliest, latest = portion.window.earliest_us, portion.window.latest_us
        payload_bytes = 0
        for packet in packets:
            topic, payload = packet.topic, packet.payload
            size = len(payload)
            payload_bytes += size
            try:
                start, _, device_id = topic.rpartition("/")
                way = ways.get(start)
                if way is not None and size <= LARGE_BYTES:  # an array, or what is too large, goes the careful way
                    validate, id_field, row, rows = way
                    reading = validate(payload)
                    ts_us = to_us(reading["timestamp"])
                    if earliest <= ts_us <= latest and reading[id_field] == device_id:
                        rows.append(row(reading, ts_us))
                        continue
            except NOT_OURS_TO_CATCH:
                raise
            except BaseException:  # noqa: BLE001, S110 - pydantic's verdict, a 30th of February: said below, with care
                pass
            with uncollected(size):
                self._decode_with_care(packet, portion, receipt)
        portion.batch.payload_bytes += payload_bytes

    def _take_asking(self, packets: Sequence[mqtt5.PublishPacket], portion: _Portion) -> None:
        """As `_take`, but those that ask for a receipt one at a time, so that it is known which rows are theirs: 1.5 µs
        more for each.
        """
        for asking, group in groupby(packets, key=lambda packet: packet.response_topic is not None):
            if not asking:
                self._take(list(group), portion)
                continue
            for packet in group:
                receipt = asked_for(packet)
                self._take([packet], portion, receipt)
                if receipt is None:
                    portion.received.receipts_ignored += 1
                    continue
                if receipt.is_empty:
                    rows = portion.ways[packet.topic.rpartition("/")[0]][3]
                    receipt.rows.append((0, rows[-1]))
                portion.batch.receipts.append(receipt)
                portion.batch.payload_bytes += receipt.asked_bytes

    def alone(self, topic: str, payload: bytes, now: float) -> Batch:
        """A message that is not of the broker's, as a batch of its own."""
        batch = Batch()
        self.decode([cast("mqtt5.PublishPacket", _KeptMessage(topic, payload))], batch, now)
        return batch

    def judge_again(self, batch: Batch, now: float) -> None:
        """Take in what a clock refused and this `now` does not; the books of the batch stay balanced.

        What stays refused is kept as it was, or dropped where nothing is to be kept.
        """
        before, batch.rejected = batch.rejected, []
        judge = Decoder(self._rules, keep_limit=KEEP_NONE)
        taken = 0
        for refusal in before:
            is_clocks = refusal.code in CLOCK_CODES
            again = judge.alone(refusal.topic, refusal.payload, now) if is_clocks else Batch()
            if again.rows_in_all:
                for kind, rows in again.rows.items():
                    batch.rows[kind] += rows
                    if refusal.receipt is not None and rows:
                        refusal.receipt.take_back(refusal.place, rows[0])
                batch.refusals[refusal.code] -= 1
                taken += 1
            elif refusal.code not in CLOCK_CODES or not self._keep_limit.keeps_nothing:
                batch.rejected.append(refusal)
        self._keep_limit.give_back(taken)

    def _decode_with_care(self, packet: mqtt5.PublishPacket, portion: _Portion, receipt: Receipt | None) -> None:
        """A message that is not one valid reading: an array, or something to refuse."""
        batch, received, window = portion.batch, portion.received, portion.window
        start, _, device_id = packet.topic.rpartition("/")
        reader = self._readers.get(start) if device_id else None
        received.messages[reader.name if reader else UNKNOWN] += 1
        try:
            reader, content = _required(reader), parsed(packet.payload)
        except NOT_OURS_TO_CATCH:
            raise
        except BaseException as error:  # noqa: BLE001 - a codec's panic is no Exception
            received.readings[UNKNOWN] += 1
            message = _Message(packet, packet.payload, window.now, receipt)
            self._refuse(batch, message, 0, packet.payload, self._verdict(error))
            return
        message = _Message(packet, content, window.now, receipt)
        items = content if isinstance(content, list) else [content]
        received.readings[reader.name] += len(items)
        shaped = with_shape(items, reader)
        if len(shaped) < len(items):
            self._refuse_shapeless(batch, message, items, reader)
        make, rows = reader.row_counted(received.with_unknown_fields), batch.rows[reader.name]
        # Only a receipt says which item of the array it was.
        for place, item in zip(range(len(shaped)) if receipt is None else places(items, shaped), shaped, strict=True):
            try:
                reading, ts_us = validated(reader, device_id, item, window)
            except ValidationError:
                self._refuse_value(batch, message, place, item, reader)
            except NOT_OURS_TO_CATCH:
                raise
            except BaseException as error:  # noqa: BLE001 - as above
                self._refuse(batch, message, place, item, self._verdict(error))
            else:
                row = make(reading, ts_us)
                rows.append(row)
                received.with_care[reader.name] += 1
                if receipt is not None:
                    receipt.rows.append((place, row))

    def _refuse_shapeless(self, batch: Batch, message: _Message, items: list[object], reader: Reader) -> None:
        """What of an array has not the fields of a reading; 1 MB has room for 500,000 of them."""
        shapeless = without_shape(items, reader)
        if message.receipt is not None:
            tell_shapeless(message.receipt, items, shapeless, reader)
        for index, item in enumerate(shapeless):
            if not self._keep_limit.take():
                batch.refusals["invalid_shape"] += len(shapeless) - index
                return
            refused = described(item, reader)
            batch.refusals[refused.code] += 1
            batch.rejected.append(message.refusal(item, refused))

    def _refuse_value(self, batch: Batch, message: _Message, place: int, item: object, reader: Reader) -> None:
        """An item with the fields of a reading and a value that is none: described only where it is kept or told."""
        keep = self._keep_limit.take()
        if not keep and not message.tells_why:
            batch.refusals["invalid_value"] += 1
            message.tell(place, Refused("invalid_value", ""))
            return
        refused = described(item, reader)
        batch.refusals[refused.code] += 1
        message.tell(place, refused)
        if keep:
            batch.rejected.append(message.refusal(item, refused))

    def _refuse(self, batch: Batch, message: _Message, place: int, item: object, refused: Refused) -> None:
        batch.refusals[refused.code] += 1
        message.tell(place, refused)
        limit = self._keep_limit
        keep = limit.take_valid() if refused.code in VALID_CODES else limit.take()
        if keep or refused.code in CLOCK_CODES:  # these are judged once more before they are written
            batch.rejected.append(message.refusal(item, refused, place))

    def _verdict(self, error: BaseException) -> Refused:
        """What an exception says about a message; one that we cannot explain is kept as a valid reading would be."""
        if isinstance(error, Refused):
            return error
        if self._faults.due(type(error).__name__):
            logger.error("a message could not be read and goes to quarantine: a fault of wattline's", exc_info=error)
        return Refused("database_refused", f"a fault of wattline's while reading it: {type(error).__name__}")


@dataclass(frozen=True, slots=True)
class _Message:
    """A message on the careful way."""

    packet: mqtt5.PublishPacket
    content: object
    now: float
    receipt: Receipt | None

    @property
    def tells_why(self) -> bool:
        """Whether its device is told why one more reading is refused."""
        return self.receipt is not None and not self.receipt.is_full

    def tell(self, place: int, refused: Refused) -> None:
        """Its device, if it asked."""
        if self.receipt is not None:
            self.receipt.refuse(place, refused.code, refused.reason)

    def refusal(self, item: object, refused: Refused, place: int = 0) -> Refusal:
        """The whole message, or one item of its array, on its way to quarantine."""
        packet = self.packet
        payload = packet.payload if item is self.content or item is packet.payload else as_payload(item)
        return Refusal(
            packet.topic, payload, refused.code, refused.reason, self.now, packet.duplicate, self.receipt, place
        )


def _required(reader: Reader | None) -> Reader:
    if reader is None:
        known = " or ".join(f"{kind.topic_prefix}{{id}}" for kind in KINDS)
        raise Refused("unknown_topic", f"the topic is not {known}")
    return reader
