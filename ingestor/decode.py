"""From received messages to rows: validation, and a reason for everything that is refused.

Each payload is validated on its own: a payload boundary is a trust boundary, and one device's bytes must not spill into
its neighbour's reading. Nothing here raises for what a device sent, and a fault of ours costs one message its place.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, cast

import mqtt5
from pydantic import TypeAdapter, ValidationError

from ingestor.batch import VALID_CODES, Batch, Rejection
from ingestor.careful import (
    LARGE_BYTES,
    Refused,
    as_payload,
    described,
    parsed,
    uncollected,
    validated,
    with_shape,
    without_shape,
)
from ingestor.rejected.limit import KeepLimit
from ingestor.seldom import Seldom
from telemetry.readings import FIELDS, METER, VEHICLE, ReadingWindow, ReasonCode, timestamp_us
from telemetry.topics import METER_PREFIX, VEHICLE_PREFIX, Kind

logger = logging.getLogger(__name__)

CLOCK_CODES: tuple[ReasonCode, ...] = ("clock_skew", "too_old")
"""Refusals that say as much about our clock as about the device's."""


@dataclass(frozen=True, slots=True)
class _Kept:
    """What a refusal keeps of its message, in the place of the message."""

    topic: str
    payload: bytes
    duplicate: bool = False


KEEP_NONE = KeepLimit(0)
# All other exceptions cost one message its place: a codec's panic is a BaseException, too.
NOT_OURS_TO_CATCH = (KeyboardInterrupt, SystemExit)


@dataclass(slots=True)
class Received:
    """What a portion of messages held, by kind, for the books; what cannot be taken apart counts as one "unknown"."""

    messages: dict[str, int] = field(default_factory=lambda: {"meter": 0, "vehicle": 0, "unknown": 0})
    readings: dict[str, int] = field(default_factory=lambda: {"meter": 0, "vehicle": 0, "unknown": 0})


@dataclass(frozen=True, slots=True)
class Stream:
    """What sets the two kinds of readings apart."""

    kind: Kind
    payload: TypeAdapter[Any]
    id_field: str
    fields: frozenset[str]
    add: Callable[[Batch, Any, int], None]


def _add_meter(batch: Batch, reading: dict[str, Any], ts_us: int) -> None:
    batch.meters.append((reading["meterId"], ts_us, reading["kwhConsumedAc"], reading["voltage"]))


def _add_vehicle(batch: Batch, reading: dict[str, Any], ts_us: int) -> None:
    batch.vehicles.append(
        (reading["vehicleId"], ts_us, reading["soc"], reading["kwhDeliveredDc"], reading["batteryTemp"])
    )


METER_STREAM = Stream("meter", METER, "meterId", FIELDS["meter"], _add_meter)
VEHICLE_STREAM = Stream("vehicle", VEHICLE, "vehicleId", FIELDS["vehicle"], _add_vehicle)


class Decoder:
    """Adds messages to a batch; holds the window of timestamps that are taken, which moves with the clock."""

    def __init__(self, *, max_skew_seconds: float, max_age_days: float, keep_limit: KeepLimit) -> None:
        self._max_skew_seconds = max_skew_seconds
        self._max_age_days = max_age_days
        self._keep_limit = keep_limit
        self._faults = Seldom()

    def pause_seconds(self) -> float:
        """How long reading has to pause, so that no valid reading is refused without being kept; 0 or less: go on."""
        return self._keep_limit.pause_seconds()

    def decode(self, packets: Sequence[mqtt5.PublishPacket], batch: Batch, now: float) -> Received:
        """Add every reading of `packets` to the batch, and every refusal; `now` is seconds since 1970.

        The hot path: 1.7 µs a message with one valid reading, 1.1 of it in pydantic.
        """
        window = ReadingWindow.around(now, max_skew_seconds=self._max_skew_seconds, max_age_days=self._max_age_days)
        earliest, latest = window.earliest_us, window.latest_us
        # The adapters' own validators: `TypeAdapter.validate_json` only hands its arguments on, for 0.3 µs.
        validate_meter, validate_vehicle = METER.validator.validate_json, VEHICLE.validator.validate_json
        to_us = timestamp_us
        add_meter, add_vehicle = batch.meters.append, batch.vehicles.append
        meter_start, vehicle_start = len(METER_PREFIX), len(VEHICLE_PREFIX)
        received = Received()
        meters = vehicles = payload_bytes = 0
        for packet in packets:
            topic, payload = packet.topic, packet.payload
            size = len(payload)
            payload_bytes += size
            try:
                if size > LARGE_BYTES:
                    pass  # an array, too large, or odd enough for the careful way
                elif topic.startswith(METER_PREFIX):
                    meter = validate_meter(payload)
                    ts_us = to_us(meter["timestamp"])
                    if earliest <= ts_us <= latest and meter["meterId"] == topic[meter_start:]:
                        add_meter((meter["meterId"], ts_us, meter["kwhConsumedAc"], meter["voltage"]))
                        meters += 1
                        continue
                elif topic.startswith(VEHICLE_PREFIX):
                    vehicle = validate_vehicle(payload)
                    ts_us = to_us(vehicle["timestamp"])
                    if earliest <= ts_us <= latest and vehicle["vehicleId"] == topic[vehicle_start:]:
                        add_vehicle(
                            (
                                vehicle["vehicleId"],
                                ts_us,
                                vehicle["soc"],
                                vehicle["kwhDeliveredDc"],
                                vehicle["batteryTemp"],
                            )
                        )
                        vehicles += 1
                        continue
            except NOT_OURS_TO_CATCH:
                raise
            except BaseException:  # noqa: BLE001, S110 - pydantic's verdict, a 30th of February: said below, with care
                pass
            with uncollected(size):
                self._decode_with_care(packet, batch, received, window)
        for kind, readings in (("meter", meters), ("vehicle", vehicles)):
            received.messages[kind] += readings
            received.readings[kind] += readings
        batch.received_at = batch.received_at or now
        batch.messages += len(packets)
        batch.payload_bytes += payload_bytes
        batch.received += sum(received.readings.values())
        return received

    def judge_again(self, batch: Batch, now: float) -> None:
        """Take in what a clock refused and this `now` does not; the books of the batch stay balanced.

        What stays refused is kept as it was, or dropped where nothing is to be kept.
        """
        before, batch.rejected = batch.rejected, []
        judge = Decoder(max_skew_seconds=self._max_skew_seconds, max_age_days=self._max_age_days, keep_limit=KEEP_NONE)
        taken = 0
        for rejection in before:
            again = Batch()
            if rejection.code in CLOCK_CODES:
                judge.decode([cast("mqtt5.PublishPacket", _Kept(rejection.topic, rejection.payload))], again, now)
            if again.meters or again.vehicles:
                batch.meters += again.meters
                batch.vehicles += again.vehicles
                batch.refusals[rejection.code] -= 1
                taken += 1
            elif rejection.code not in CLOCK_CODES or not self._keep_limit.keeps_nothing:
                batch.rejected.append(rejection)
        self._keep_limit.give_back(taken)

    def _decode_with_care(
        self, packet: mqtt5.PublishPacket, batch: Batch, received: Received, window: ReadingWindow
    ) -> None:
        """A message that is not one valid reading: an array, or something to refuse."""
        stream, device_id = _stream_of(packet.topic)
        received.messages[stream.kind if stream else "unknown"] += 1
        try:
            stream, content = _required(stream), parsed(packet.payload)
        except NOT_OURS_TO_CATCH:
            raise
        except BaseException as error:  # noqa: BLE001 - a codec's panic is no Exception
            received.readings["unknown"] += 1
            self._reject(batch, _Message(packet, packet.payload, window.now), packet.payload, self._verdict(error))
            return
        message = _Message(packet, content, window.now)
        items = content if isinstance(content, list) else [content]
        received.readings[stream.kind] += len(items)
        shaped = with_shape(items, stream)
        if len(shaped) < len(items):
            self._reject_shapeless(batch, message, items, stream)
        for item in shaped:
            try:
                reading, ts_us = validated(stream, device_id, item, window)
            except ValidationError:
                self._reject_value(batch, message, item, stream)
            except NOT_OURS_TO_CATCH:
                raise
            except BaseException as error:  # noqa: BLE001 - as above
                self._reject(batch, message, item, self._verdict(error))
            else:
                stream.add(batch, reading, ts_us)

    def _reject_shapeless(self, batch: Batch, message: _Message, items: list[object], stream: Stream) -> None:
        """What of an array has not the fields of a reading; 1 MB has room for 500,000 of them."""
        shapeless = without_shape(items, stream)
        for index, item in enumerate(shapeless):
            if not self._keep_limit.take():
                batch.refusals["invalid_shape"] += len(shapeless) - index
                return
            refused = described(item, stream)
            batch.refusals[refused.code] += 1
            batch.rejected.append(message.rejection(item, refused))

    def _reject_value(self, batch: Batch, message: _Message, item: object, stream: Stream) -> None:
        """An item with the fields of a reading and a value that is none: described only where it is kept."""
        if self._keep_limit.take():
            refused = described(item, stream)
            batch.refusals[refused.code] += 1
            batch.rejected.append(message.rejection(item, refused))
        else:
            batch.refusals["invalid_value"] += 1

    def _reject(self, batch: Batch, message: _Message, item: object, refused: Refused) -> None:
        batch.refusals[refused.code] += 1
        limit = self._keep_limit
        keep = limit.take_valid() if refused.code in VALID_CODES else limit.take()
        if keep or refused.code in CLOCK_CODES:  # these are judged once more before they are written
            batch.rejected.append(message.rejection(item, refused))

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

    def rejection(self, item: object, refused: Refused) -> Rejection:
        """The whole message, or one item of its array, on its way to quarantine."""
        packet = self.packet
        payload = packet.payload if item is self.content or item is packet.payload else as_payload(item)
        return Rejection(packet.topic, payload, refused.code, refused.reason, self.now, packet.duplicate)


def _stream_of(topic: str) -> tuple[Stream | None, str]:
    for stream, prefix in ((METER_STREAM, METER_PREFIX), (VEHICLE_STREAM, VEHICLE_PREFIX)):
        device_id = topic.removeprefix(prefix)
        if device_id and device_id != topic and "/" not in device_id:
            return stream, device_id
    return None, ""


def _required(stream: Stream | None) -> Stream:
    if stream is None:
        raise Refused("unknown_topic", "the topic is not v1/telemetry/meter/{id} or v1/telemetry/vehicle/{id}")
    return stream
