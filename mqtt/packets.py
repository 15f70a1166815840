"""Cuts the bytes of a connection into MQTT packets; the codec (`mqtt5`) reads each of them.

It keeps the beginning of a packet whose end has not come, never more than the size agreed on. It never guesses: bytes
that are no packet, and never will be one, are a problem that ends the connection.
"""

from __future__ import annotations

import sys
from array import array
from collections.abc import Sequence
from collections.abc import Set as AbstractSet

import mqtt5

# Fixed header: one byte of type and flags, then up to four of remaining length (MQTT 5, section 2.1).
FIXED_HEADER_BYTES_MAX = 5
# What a broker's packet begins with: its type, and flags that are fixed for all but PUBLISH (MQTT 5, section 2.1.3).
# Most other protocols are known by their first byte: HTTP, SSH, TLS.
FIRST_BYTES = frozenset({0x20, *range(0x30, 0x40), 0x40, 0x50, 0x62, 0x70, 0x90, 0xB0, 0xD0, 0xE0, 0xF0})

# Acknowledgements of success in their shortest form: the type, two more bytes, the packet id (MQTT 5, sections 3.4.2.1,
# 3.5.2.1).
PUBACK_HEADER = 0x4002
PUBREC_HEADER = 0x5002


def acknowledgements(packet_ids: Sequence[int], exactly_once: AbstractSet[int]) -> bytes:
    """PUBACKs with success, one after another; a PUBREC for each id that is in `exactly_once`: its message came with
    QoS 2. 0.02 µs each, where the codec takes 0.18 for an object and its bytes.
    """
    words = array("H", [PUBACK_HEADER]) * (2 * len(packet_ids))
    words[1::2] = array("H", packet_ids)
    if exactly_once:
        for index, packet_id in enumerate(packet_ids):
            if packet_id in exactly_once:
                words[2 * index] = PUBREC_HEADER
    if sys.byteorder == "little":
        words.byteswap()
    return words.tobytes()


def is_connack_311(answer: bytes) -> bool:
    """Whether a first answer is the CONNACK of a broker that speaks MQTT 3.1.1 only.

    Two bytes follow, where MQTT 5 has three or more; or its code is one of 3.1.1's for "no" (1 to 5), where MQTT 5 has
    none below 0x80. Moquette sends the second form.
    """
    code = answer[3:4]
    return answer[:2] == b"\x20\x02" or (answer[:1] == b"\x20" and b"\x00" < code < b"\x80")


class PacketReader:
    """The packets of one connection."""

    def __init__(self, packet_bytes_max: int) -> None:
        self._packet_bytes_max = packet_bytes_max
        self._partial = b""

    @property
    def unread(self) -> bytes:
        """The beginning of a packet whose end has not come yet."""
        return self._partial

    def feed(self, data: bytes) -> tuple[list[mqtt5.PublishPacket], list[mqtt5.Packet], str | None]:
        """The PUBLISHes and the other packets that end in `data`, and what is wrong with the bytes after them, if
        anything is. The hot path: 0.35 µs a PUBLISH, most of it in the codec.
        """
        if self._partial:
            data = self._partial + data
        view = memoryview(data)
        read, publish = mqtt5.read, mqtt5.PublishPacket
        at, end = 0, len(data)
        publishes: list[mqtt5.PublishPacket] = []
        others: list[mqtt5.Packet] = []
        problem: str | None = None
        try:
            while at < end:
                packet, size = read(view[at:])
                at += size
                if type(packet) is publish:
                    publishes.append(packet)
                else:
                    others.append(packet)
        except IndexError:
            problem = self._why_never_whole(view[at:])
        except (KeyboardInterrupt, SystemExit):
            raise
        except Exception as error:  # noqa: BLE001 - whatever the codec says, the bytes are no packet
            problem = f"sent something that is not MQTT 5 ({error})"
        except BaseException:  # noqa: BLE001 - the codec's panic is not an Exception
            problem = "sent something that is not MQTT 5 (a text that is not UTF-8)"
        self._partial = data[at:]
        return publishes, others, problem

    def _why_never_whole(self, rest: memoryview) -> str | None:
        """What is wrong with `rest`, or None when more bytes can make a packet of it.

        The codec says "not enough bytes" both for a packet whose end has not come and for one whose inside lies about
        its lengths; waiting for more of the latter would be waiting forever.
        """
        if rest[0] not in FIRST_BYTES:
            return "sent something that is not MQTT 5"
        size, shift = 0, 0
        for index in range(1, FIXED_HEADER_BYTES_MAX):
            if index >= len(rest):
                return None
            size |= (rest[index] & 0x7F) << shift
            shift += 7
            if rest[index] < 0x80:  # noqa: PLR2004 - the continuation bit (MQTT 5, section 1.5.5)
                size += index + 1
                break
        if size > self._packet_bytes_max:
            return f"sent a packet of {size} bytes, more than the {self._packet_bytes_max} agreed"
        if size <= len(rest):
            return "sent a packet whose lengths do not fit together"
        return None
