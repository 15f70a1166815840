import os
import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import paho.mqtt.client as paho
import pytest
from paho.mqtt.enums import CallbackAPIVersion, MQTTProtocolVersion
from paho.mqtt.packettypes import PacketTypes
from paho.mqtt.properties import Properties

from embedded.errors import EmbeddedError
from embedded.mosquitto import MosquittoServer
from embedded.snapshot import damage_of
from tests.backends import Broker
from tests.waiting import wait_until

TOPIC = "v1/telemetry/meter/METER-001"


class Consumer:
    """An ingestor as the broker sees it: a lasting session, acknowledging what it gets."""

    def __init__(self, port: int) -> None:
        self.payloads: list[bytes] = []
        self._client = paho.Client(CallbackAPIVersion.VERSION2, "consumer", protocol=MQTTProtocolVersion.MQTTv5)
        self._client.on_message = lambda _client, _data, message: self.payloads.append(bytes(message.payload))
        lasting = Properties(PacketTypes.CONNECT)
        lasting.SessionExpiryInterval = 3600
        lasting.ReceiveMaximum = 65535
        self._client.connect("127.0.0.1", port, clean_start=False, properties=lasting)
        self._client.loop_start()
        subscribed: list[object] = []
        self._client.on_subscribe = lambda *details: subscribed.append(details)
        wait_until(self._client.is_connected, what="the consumer is connected")
        self._client.subscribe("v1/telemetry/#", qos=1)
        wait_until(lambda: subscribed, what="the subscription")

    def leave(self) -> None:
        self._client.disconnect()
        self._client.loop_stop()


@contextmanager
def _publisher(port: int, protocol: MQTTProtocolVersion = MQTTProtocolVersion.MQTTv5) -> Iterator[paho.Client]:
    client = paho.Client(CallbackAPIVersion.VERSION2, protocol=protocol)
    client.max_inflight_messages_set(1000)
    client.connect("127.0.0.1", port)
    client.loop_start()
    try:
        wait_until(client.is_connected, what="the publisher is connected")
        yield client
    finally:
        client.disconnect()
        client.loop_stop()


def _publish(port: int, payloads: list[bytes], **options: Any) -> None:
    with _publisher(port) as client:
        sent = [client.publish(TOPIC, payload, **options) for payload in payloads]
        wait_until(lambda: all(info.is_published() for info in sent), what="every message is acknowledged")


def _numbers(count: int) -> list[bytes]:
    return [b"%d" % number for number in range(count)]


@pytest.mark.parametrize("ending", ["stop", "kill"])
def test_thousands_of_messages_outlive_the_broker(broker: Broker, tmp_path: Path, ending: str) -> None:
    if not isinstance(broker, MosquittoServer):
        pytest.skip("looks at the snapshot, which is inside the container")
    Consumer(broker.port).leave()
    _publish(broker.port, _numbers(5000), qos=1)
    if ending == "stop":
        broker.stop()
    else:
        # The first one to be finished may have been begun before the last message came.
        for _ in range(2):
            before = _written_at(broker)
            wait_until(lambda before=before: _written_at(broker) != before, what="the snapshot of a second")
        broker.kill()
    broker.start()
    consumer = Consumer(broker.port)
    wait_until(lambda: len(consumer.payloads) >= 5000, what="all messages")
    consumer.leave()
    assert consumer.payloads == _numbers(5000)


HEADER = b"\x00\xb5\x00mosquitto db" + bytes(4)


def _torn(good: bytes) -> bytes:
    return good[: len(good) // 2]


@pytest.mark.parametrize(
    ("left", "said"),
    [
        (lambda _: b"", "is empty"),
        (lambda good: bytes(len(good)), "is zeroed"),
        (lambda _: b"Dear diary, " * 40, "was not written by Mosquitto"),
        (lambda _: b"SQLite format 3\0" + bytes(4080), "was not written by Mosquitto"),
        (lambda good: good[:19], "breaks off"),
        (lambda good: good[:19] + (99).to_bytes(4, "big") + good[23:], "cannot be read"),
        (_torn, "breaks off at byte "),
        (lambda good: _torn(good) + bytes(len(good) // 2), "(is damaged|breaks off) at byte "),
        (lambda good: good[:23] + b"\xff" * 500, "is damaged at byte 23"),
    ],
)
def test_a_snapshot_that_cannot_be_read_is_kept_with_a_line(
    broker: Broker, capfd: pytest.CaptureFixture[str], left: Callable[[bytes], bytes], said: str
) -> None:
    """Mosquitto refuses most of them, for ever; of the others it reads a part and writes over the rest."""
    if not isinstance(broker, MosquittoServer):
        pytest.skip("writes into the snapshot, which is inside the container")
    Consumer(broker.port).leave()
    _publish(broker.port, _numbers(100), qos=1)
    broker.stop()
    snapshot = broker.data / "mosquitto.db"
    content = left(snapshot.read_bytes())
    snapshot.write_bytes(content)
    capfd.readouterr()
    broker.start()
    line = capfd.readouterr().out
    (aside,) = broker.data.glob("mosquitto.db.damaged-*")
    assert re.fullmatch(rf"the broker's snapshot {said}.*; it is kept as {aside}, and messages and .*\n", line)
    assert aside.read_bytes() == content
    with _publisher(broker.port):
        broker.stop()
    broker.start()
    assert capfd.readouterr().out == ""


def test_a_snapshot_that_is_whole_gives_no_line_and_a_torn_one_is_noticed_wherever_it_breaks(tmp_path: Path) -> None:
    chunks = [(1, b"c" * 16), (5, b"subscription"), (2, b"message"), (3, b"")]
    whole = HEADER + (6).to_bytes(4, "big")
    ends = {len(whole)}
    for kind, content in chunks:
        whole += kind.to_bytes(4, "big") + len(content).to_bytes(4, "big") + content
        ends.add(len(whole))
    snapshot = tmp_path / "mosquitto.db"
    assert damage_of(snapshot) is None
    for length in range(len(whole) + 1):
        snapshot.write_bytes(whole[:length])
        assert (damage_of(snapshot) is None) == (length in ends), length


@pytest.mark.skipif(os.geteuid() != 0, reason="only root's broker runs as somebody else")
def test_a_snapshot_of_another_user_is_no_reason_to_start_without_it(broker: Broker) -> None:
    if not isinstance(broker, MosquittoServer):
        pytest.skip("writes into the snapshot, which is inside the container")
    broker.stop()
    snapshot = broker.data / "mosquitto.db"
    os.chown(snapshot, 0, 0)
    with pytest.raises(EmbeddedError, match=r"mosquitto\.db cannot be read by the user nobody, .*: chown it"):
        broker.start()


def _written_at(broker: MosquittoServer) -> int | None:
    """When the last snapshot was put in place, in ns; None before the first."""
    snapshot = broker.data / "mosquitto.db"
    return snapshot.stat().st_mtime_ns if snapshot.exists() else None


def test_qos_0_is_kept_while_the_consumer_is_away(broker: Broker) -> None:
    Consumer(broker.port).leave()
    _publish(broker.port, _numbers(50), qos=0)
    consumer = Consumer(broker.port)
    wait_until(lambda: len(consumer.payloads) == 50, what="all messages")
    consumer.leave()


@pytest.mark.parametrize("protocol", [MQTTProtocolVersion.MQTTv311, MQTTProtocolVersion.MQTTv5])
def test_what_is_acknowledged_arrives_and_what_is_too_big_is_not_acknowledged(
    broker: Broker, protocol: MQTTProtocolVersion
) -> None:
    consumer = Consumer(broker.port)
    with _publisher(broker.port, protocol) as client:
        sent = client.publish(TOPIC, b"x" * 4_194_304, qos=1)
        wait_until(sent.is_published, what="4 MiB are acknowledged")
        wait_until(lambda: [len(payload) for payload in consumer.payloads] == [4_194_304], what="4 MiB arrive")
        ends: list[object] = []
        client.on_disconnect = lambda *details: ends.append(details)
        too_big = client.publish(TOPIC, b"x" * 4_300_000, qos=1)
        wait_until(lambda: ends, what="the sender of a bigger packet is disconnected")
        assert not too_big.is_published()
    consumer.leave()
    assert len(consumer.payloads) == 1


def test_two_brokers_do_not_meet(broker_factory: Callable[[], Broker]) -> None:
    one, other = broker_factory(), broker_factory()
    consumer = Consumer(one.port)
    _publish(other.port, [b"other"], qos=1)
    _publish(one.port, [b"one"], qos=1)
    wait_until(lambda: consumer.payloads, what="the message of its own broker")
    consumer.leave()
    assert consumer.payloads == [b"one"]
