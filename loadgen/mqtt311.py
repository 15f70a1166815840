"""MQTT 3.1.1 for devices that speak nothing newer: the five packets a publisher needs, with an outbox's interface.

The codec of the link (`mqtt5`) speaks MQTT 5 only. Known by the specification (OASIS, mqtt-v3.1.1): a PUBACK has no
reason code, so a broker acknowledges also what nobody is subscribed to.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Sequence
from typing import Final, Self

from loadgen.messages import Message
from mqtt.errors import LinkError, LinkLost, LinkRefused, PublishRefused
from mqtt.network import NetworkConnection
from mqtt.options import LinkOptions
from mqtt.packet_ids import PACKET_IDS, free_packet_ids

CONNECT, CONNACK, PUBLISH, PUBACK, PINGREQ, PINGRESP, DISCONNECT = 0x10, 0x20, 0x30, 0x40, 0xC0, 0xD0, 0xE0
QOS_1: Final = 0x02
CLEAN_SESSION, HAS_PASSWORD, HAS_USERNAME = 0x02, 0x40, 0x80
# The whole of every packet that a broker sends to who never subscribes.
PACKET_BYTES: Final = {CONNACK: 4, PUBACK: 4, PINGRESP: 2}
REFUSALS: Final = {
    1: "it does not speak MQTT 3.1.1; use --mqtt-version 5",
    2: "it does not accept the client id",
    3: "it is not available at the moment",
    4: "wrong user name or password; check them in MQTT_URL",
    5: "not authorized; check user and password in MQTT_URL and the broker's access rules",
}
FINAL_REFUSALS: Final = (1, 2)

OnAnswers = Callable[[list[Message], list[tuple[Message, PublishRefused]]], None]


class Connection311(NetworkConnection):
    """An established connection; make one with `open`."""

    ping_packet = bytes((PINGREQ, 0))

    def __init__(self, options: LinkOptions, under_way_max: int, on_answers: OnAnswers, qos: int) -> None:
        super().__init__(options)
        self._under_way_max = min(under_way_max, PACKET_IDS)
        self._on_answers = on_answers
        self._qos = qos
        self._partial = b""
        self._due: dict[int, Message] = {}
        self._last_packet_id = 0

    @classmethod
    async def open(cls, options: LinkOptions, under_way_max: int, on_answers: OnAnswers, *, qos: int = 1) -> Self:
        """Connect, and return once the broker has accepted us. Raises LinkError."""
        made = cls(options, under_way_max, on_answers, qos)
        await made._open()
        return made

    async def _shake_hands(self) -> float:
        options = self._options
        self._write(connect_packet(options))
        code: int = await self._welcome
        if code:
            why = REFUSALS.get(code, "for a reason that MQTT 3.1.1 does not know")
            text = f"the broker at {options.broker} refused the connection: {why} (return code {code})"
            raise LinkRefused(text) if code in FINAL_REFUSALS else LinkLost(text)
        return options.keepalive_seconds

    def _unanswered(self, _error: Exception | None) -> LinkError:
        return LinkLost(
            f"the broker at {self._options.broker} closed the connection without an answer; does it speak MQTT 3.1.1, "
            "and is its port the right one (a TLS port needs mqtts:// in MQTT_URL)?"
        )

    # As an outbox

    @property
    def room(self) -> int:
        """How many messages may be sent now."""
        if self._error is not None:
            return 0
        if self._qos == 0:
            return self._under_way_max if self.is_writable else 0
        return self._under_way_max - len(self._due)

    def send(self, messages: Sequence[Message]) -> None:
        """Send at most `room` messages, in this order, as one write."""
        if self._qos == 0:
            self._write(b"".join([publish_packet(message.topic, message.payload, None) for message in messages]))
            return
        due, packet_id = self._due, self._last_packet_id
        packets = []
        for message, packet_id in zip(messages, free_packet_ids(self._last_packet_id, due), strict=False):
            due[packet_id] = message
            packets.append(publish_packet(message.topic, message.payload, packet_id))
        self._last_packet_id = packet_id
        self._write(b"".join(packets))

    def unanswered(self) -> list[Message]:
        """What was sent with QoS 1 and has no answer, oldest first."""
        return list(self._due.values())

    async def disconnect(self) -> None:
        """Say goodbye and let the broker close."""
        await self._say_goodbye(bytes((DISCONNECT, 0)))

    def data_received(self, data: bytes) -> None:
        if self._error is not None:
            return
        self._heard = True
        if self._partial:
            data = self._partial + data
        at, end = 0, len(data)
        due = self._due
        accepted: list[Message] = []
        while at < end:
            first = data[at]
            size = PACKET_BYTES.get(first, 0)
            if not size or (at + 1 < end and data[at + 1] != size - 2):
                self.abort(LinkLost(f"the broker at {self._options.broker} sent something that is not MQTT 3.1.1"))
                return
            if at + size > end:
                break
            if first == PUBACK:
                message = due.pop(data[at + 2] << 8 | data[at + 3], None)
                if message is not None:
                    accepted.append(message)
            elif first == CONNACK and not self._welcome.done():
                self._welcome.set_result(data[at + 3])
            at += size
        self._partial = data[at:]
        if accepted:
            self._on_answers(accepted, [])


def connect_packet(options: LinkOptions) -> bytes:
    """CONNECT with a clean session (section 3.1)."""
    broker = options.broker
    flags, fields = CLEAN_SESSION, [options.client_id.encode()]
    if broker.username is not None:
        flags |= HAS_USERNAME
        fields.append(broker.username.encode())
        if broker.password is not None:  # which needs a user name here
            flags |= HAS_PASSWORD
            fields.append(broker.password.get_secret_value().encode())
    head = b"\x00\x04MQTT\x04" + struct.pack(">BH", flags, options.keepalive_seconds)
    body = head + b"".join(struct.pack(">H", len(field)) + field for field in fields)
    return bytes((CONNECT,)) + remaining_length(len(body)) + body


def publish_packet(topic: str, payload: bytes, packet_id: int | None) -> bytes:
    """PUBLISH (section 3.3) with QoS 1, or with QoS 0 where there is no packet id. 1 µs."""
    name = topic.encode()
    size = 2 + len(name) + len(payload)
    if packet_id is None:
        return b"".join((bytes((PUBLISH,)), remaining_length(size), len(name).to_bytes(2), name, payload))
    first = bytes((PUBLISH | QOS_1,))
    return b"".join((first, remaining_length(size + 2), len(name).to_bytes(2), name, packet_id.to_bytes(2), payload))


def remaining_length(size: int) -> bytes:
    """Seven bits a byte, the lowest first (section 2.2.3)."""
    digits = bytearray()
    while True:
        size, digit = divmod(size, 0x80)
        digits.append(digit | 0x80 if size else digit)
        if not size:
            return bytes(digits)
