"""Cutting a stream of bytes into packets, as properties: no cut changes a message, no bytes are waited for in vain."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.strategies._internal.core import DataObject
from mqtt5 import PubAckPacket, PublishPacket, QoS

from mqtt.packets import PacketReader, acknowledgements
from tests.examples import examples

PACKET_BYTES_MAX = 2_000_000

# The codec's panic at a text that is not UTF-8 is reported on its way.
pytestmark = pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")


@settings(max_examples=examples(200))
@given(payloads=st.lists(st.binary(max_size=300), min_size=1, max_size=8), data=st.data())
def test_any_cut_gives_the_same_messages(payloads: list[bytes], data: DataObject) -> None:
    stream = b"".join(
        PublishPacket("a", payload, qos=QoS.AT_LEAST_ONCE, packet_id=number).write()
        for number, payload in enumerate(payloads, 1)
    )
    cuts = data.draw(st.lists(st.integers(0, len(stream)), max_size=10).map(sorted))
    packets = PacketReader(PACKET_BYTES_MAX)
    got: list[bytes] = []
    for start, end in zip([0, *cuts], [*cuts, len(stream)], strict=True):
        publishes, others, problem = packets.feed(stream[start:end])
        assert (others, problem) == ([], None)
        got += [packet.payload for packet in publishes]
    assert got == payloads


@settings(max_examples=examples(300))
@given(st.binary(max_size=60))
def test_no_bytes_make_it_fail_otherwise(data: bytes) -> None:
    publishes, others, problem = PacketReader(PACKET_BYTES_MAX).feed(data)
    assert problem is None or problem.startswith("sent ")
    assert len(publishes) + len(others) <= len(data)


@settings(max_examples=examples(300))
@given(first=st.sampled_from([0x20, 0x30, 0x32, 0x40, 0x90, 0xB0, 0xD0, 0xE0, 0xF0]), body=st.binary(max_size=40))
def test_a_whole_packet_is_never_waited_for(first: int, body: bytes) -> None:
    """One that lies about its inner lengths would be waited for forever."""
    publishes, others, problem = PacketReader(PACKET_BYTES_MAX).feed(bytes([first, len(body)]) + body)
    assert len(publishes) + len(others) == 1 or problem is not None


def test_acknowledgements_are_the_codec_s_own_bytes() -> None:
    ids = [1, 65535, 256, 255, 4]
    assert acknowledgements(ids, frozenset()) == b"".join(PubAckPacket(packet_id).write() for packet_id in ids)
    assert acknowledgements([], frozenset()) == b""
