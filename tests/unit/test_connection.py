"""A connection from CONNECT to its end: who is let in, what is said when not, how silence is noticed."""

from __future__ import annotations

import asyncio
import time
from typing import Any

import mqtt5
import pytest
from mqtt5 import ConnAckReasonCode, PingRespPacket, PublishPacket, SubAckReasonCode, UnsubAckReasonCode
from pydantic import SecretStr

from config.broker import BrokerAddress
from mqtt.connection import Connection
from mqtt.errors import LinkError, LinkLost, LinkRefused
from mqtt.options import LinkOptions
from tests.fake_broker import FakeBroker, anyio_backend, nothing_left_behind, opened  # noqa: F401 - fixtures
from tests.waiting import wait_until_async

pytestmark = pytest.mark.anyio


def address(host: str, port: int) -> BrokerAddress:
    return BrokerAddress(host=host, port=port, tls=False, username=None, password=None)


HINT = "; is it an MQTT 5 broker, and is its port the right one (a TLS port needs mqtts:// in MQTT_URL)?"


async def failure_of(options: LinkOptions) -> LinkError:
    with pytest.raises(LinkError) as raised:
        await Connection.open(options)
    return raised.value


async def failure_when_answered(*answer: mqtt5.Packet | bytes, close: bool = False) -> LinkError:
    """How `open` fails when the broker says this instead of a welcome."""
    async with FakeBroker() as broker:
        opening = asyncio.create_task(failure_of(broker.options()))
        session = await broker.session()
        await session.expect(mqtt5.ConnectPacket)
        session.send(*answer)
        if close:
            session.close()
        async with asyncio.timeout(2):
            return await opening


# To be let in


async def test_connect_says_who_we_are_and_what_we_can_take() -> None:
    async with FakeBroker() as broker:
        login = BrokerAddress(host="127.0.0.1", port=broker.port, tls=False, username="ann", password=SecretStr("p:ß"))
        options = broker.options(
            broker=login,
            client_id="ingestor-1",
            clean_start=False,
            session_expiry_seconds=3600,
            receive_maximum=1000,
            packet_bytes_max=2_000_000,
            keepalive_seconds=17,
        )
        opening = asyncio.create_task(Connection.open(options))
        session = await broker.session()
        connect = await session.expect(mqtt5.ConnectPacket)
        session.send(mqtt5.ConnAckPacket(session_present=True, max_packet_size=5000))
        connection = await opening
        assert connection.session_present
        assert connection.packet_bytes_max == 5000
        await connection.disconnect()
    assert (connect.client_id, connect.username, connect.password) == ("ingestor-1", "ann", "p:ß".encode())
    assert (connect.clean_start, connect.session_expiry_interval) == (False, 3600)
    assert (connect.receive_max, connect.max_packet_size, connect.keep_alive) == (1000, 2_000_000, 17)


async def test_messages_in_one_piece_with_the_connack_are_not_lost() -> None:
    got: list[str] = []
    async with FakeBroker() as broker:
        opening = asyncio.create_task(
            Connection.open(broker.options(), lambda _, packets: got.extend(packet.topic for packet in packets))
        )
        session = await broker.session()
        await session.expect(mqtt5.ConnectPacket)
        session.send(mqtt5.ConnAckPacket(session_present=True), mqtt5.PublishPacket("a", b""))
        connection = await opening
        assert got == ["a"]
        await connection.disconnect()


# Not to be let in


async def test_nobody_listens(unused_port: int) -> None:
    for host in ("127.0.0.1", "localhost"):
        error = await failure_of(LinkOptions(address(host, unused_port), "tester"))
        assert type(error) is LinkLost
        assert str(error) == (
            f"no connection to a broker at mqtt://{host}:{unused_port} (connection refused); "
            "is it running? Check MQTT_URL"
        )


@pytest.fixture
async def unused_port() -> int:
    async with FakeBroker() as broker:
        return broker.port


@pytest.mark.parametrize("host", ["x" * 64, "a..b"])
async def test_a_host_that_cannot_exist(host: str) -> None:
    error = await failure_of(LinkOptions(address(host, 1883), "tester"))
    assert str(error) == f"the broker's host '{host}' is not known; check MQTT_URL"


async def test_a_broker_that_never_answers() -> None:
    async with FakeBroker() as broker:
        started = time.monotonic()
        error = await failure_of(broker.options(connect_timeout_seconds=0.2))
        assert 0.15 < time.monotonic() - started < 10
        assert type(error) is LinkLost
        assert "within 0.2 s; check MQTT_URL" in str(error)
        assert await (await broker.session()).until_closed()


@pytest.mark.parametrize(
    ("answer", "said"),
    [
        (b"HTTP/1.1 400 Bad Request\r\nContent-Length: 0\r\n\r\n", "is not MQTT 5"),
        (b"SSH-2.0-OpenSSH_9.2p1\r\n", "is not MQTT 5"),
        (b"\x15\x03\x01\x00\x02\x02\x28", "is not MQTT 5"),  # a TLS alert: plain text sent to a TLS port
        (b"\x00" * 100, "is not MQTT 5"),
        (mqtt5.PingRespPacket(), "sent an unexpected PINGRESP"),
        (mqtt5.PublishPacket("a", b""), "sent an unexpected PUBLISH"),
    ],
)
async def test_something_else_listens_there(answer: PingRespPacket | PublishPacket | bytes, said: str) -> None:
    error = await failure_when_answered(answer)
    assert type(error) is LinkLost
    assert said in str(error)
    assert str(error).endswith(HINT)


@pytest.mark.parametrize("answer", [b"\x20\x02\x00\x01", b"\x20\x02\x00\x00", b"\x20\x03\x00\x01\x00"])
async def test_a_broker_that_speaks_mqtt_3_1_1_only_is_named(answer: bytes) -> None:
    error = await failure_when_answered(answer)
    assert type(error) is LinkRefused
    assert "speaks MQTT 3.1.1 only" in str(error)


@pytest.mark.parametrize("first", [1, 2, 3])
async def test_its_answer_may_come_in_two_pieces(first: int) -> None:
    connection = Connection(LinkOptions(address("127.0.0.1", 1883), "tester"), None)
    for piece in (b"\x20\x02\x00\x01"[:first], b"\x20\x02\x00\x01"[first:]):
        connection.data_received(piece)
    assert "speaks MQTT 3.1.1 only" in str(connection._error)


async def test_the_broker_hangs_up_instead_of_answering() -> None:
    error = await failure_when_answered(close=True)
    assert type(error) is LinkLost
    assert "closed the connection without an answer" in str(error)
    assert str(error).endswith(HINT)


@pytest.mark.parametrize(
    ("code", "kind", "said"),
    [
        (mqtt5.ConnAckReasonCode.BAD_USER_NAME_OR_PASSWORD, LinkLost, "check them in MQTT_URL (reason code 0x86)"),
        (mqtt5.ConnAckReasonCode.NOT_AUTHORIZED, LinkLost, "check user and password in MQTT_URL"),
        (mqtt5.ConnAckReasonCode.SERVER_UNAVAILABLE, LinkLost, "not available at the moment"),
        (mqtt5.ConnAckReasonCode.UNSUPPORTED_PROTOCOL_VERSION, LinkRefused, "does not speak MQTT 5"),
        (mqtt5.ConnAckReasonCode.CLIENT_ID_NOT_VALID, LinkRefused, "change MQTT_CLIENT_ID"),
    ],
)
async def test_the_broker_refuses_us(code: ConnAckReasonCode, kind: type[LinkLost | LinkRefused], said: str) -> None:
    error = await failure_when_answered(mqtt5.ConnAckPacket(reason_code=code, reason_str="no way"))
    assert type(error) is kind
    assert said in str(error)
    assert str(error).endswith("it says: 'no way'")


async def test_a_disconnect_instead_of_a_connack_is_explained() -> None:
    error = await failure_when_answered(
        mqtt5.DisconnectPacket(reason_code=mqtt5.DisconnectReasonCode.SERVER_SHUTTING_DOWN)
    )
    assert "disconnected us: it is shutting down (reason code 0x8B)" in str(error)


async def test_who_gives_up_connecting_leaves_no_connection_behind() -> None:
    async with FakeBroker() as broker:
        opening = asyncio.create_task(Connection.open(broker.options()))
        session = await broker.session()
        await session.expect(mqtt5.ConnectPacket)
        opening.cancel()
        with pytest.raises(asyncio.CancelledError):
            await opening
        assert await session.until_closed() == []


# To subscribe


async def test_subscribe_asks_for_qos_1_and_for_retained_messages_only_once() -> None:
    async with FakeBroker() as broker, opened(broker) as (connection, session):
        subscribing = asyncio.create_task(connection.subscribe("v1/#"))
        packet = await session.expect(mqtt5.SubscribePacket)
        wanted = packet.topic_filters[0]
        assert (wanted.pattern, wanted.max_qos) == ("v1/#", mqtt5.QoS.AT_LEAST_ONCE)
        assert wanted.retain_handling == mqtt5.RetainHandling.SEND_IF_SUBSCRIPTION_NOT_EXISTS
        session.send(mqtt5.SubAckPacket(packet.packet_id, [mqtt5.SubAckReasonCode.GRANTED_QOS_AT_LEAST_ONCE]))
        await subscribing


@pytest.mark.parametrize(
    ("codes", "said"),
    [
        ([mqtt5.SubAckReasonCode.NOT_AUTHORIZED], "allow this user to read it"),
        # Mosquitto's max_qos, AWS IoT's and Azure's own rules: QoS 0 would lose what is under way, silently.
        ([mqtt5.SubAckReasonCode.GRANTED_QOS_AT_MOST_ONCE], "it grants QoS 0 only"),
        ([], "0 reason codes"),
    ],
)
async def test_a_subscription_that_is_not_granted_as_asked(
    codes: list[SubAckReasonCode] | list[Any], said: str
) -> None:
    async with FakeBroker() as broker, opened(broker) as (connection, session):
        subscribing = asyncio.create_task(connection.subscribe("v1/#"))
        packet = await session.expect(mqtt5.SubscribePacket)
        session.send(mqtt5.SubAckPacket(packet.packet_id, codes))
        with pytest.raises(LinkLost, match=said):
            await subscribing


async def test_an_answer_to_something_else_is_not_a_subscription() -> None:
    async with FakeBroker() as broker, opened(broker) as (connection, session):
        subscribing = asyncio.create_task(connection.subscribe("v1/#"))
        packet = await session.expect(mqtt5.SubscribePacket)
        session.send(mqtt5.PubAckPacket(packet.packet_id))
        with pytest.raises(LinkLost, match="sent PUBACK where SUBACK was due"):
            await subscribing


async def test_a_broker_that_never_answers_a_subscribe() -> None:
    async with FakeBroker() as broker:
        options = broker.options(connect_timeout_seconds=0.2)
        async with opened(broker, options=options) as (connection, _), asyncio.timeout(2):
            with pytest.raises(LinkLost, match="sent no SUBACK in time"):
                await connection.subscribe("v1/#")


async def test_an_answer_that_waits_behind_paused_reading_is_waited_for() -> None:
    """The messages of a resumed session come before the SUBACK, and may be more than we can take at the moment."""
    async with FakeBroker() as broker:
        options = broker.options(connect_timeout_seconds=0.2)
        async with opened(broker, options=options) as (connection, session):
            connection.pause_reading()
            subscribing = asyncio.create_task(connection.subscribe("v1/#"))
            packet = await session.expect(mqtt5.SubscribePacket)
            session.send(mqtt5.SubAckPacket(packet.packet_id, [mqtt5.SubAckReasonCode.GRANTED_QOS_AT_LEAST_ONCE]))
            done, _ = await asyncio.wait([subscribing], timeout=0.5)
            assert not done
            connection.resume_reading()
            async with asyncio.timeout(2):
                await subscribing


@pytest.mark.parametrize(
    ("codes", "said"),
    [
        ([mqtt5.UnsubAckReasonCode.SUCCESS], None),
        ([mqtt5.UnsubAckReasonCode.NO_SUBSCRIPTION_EXISTED], None),
        (
            [mqtt5.UnsubAckReasonCode.NOT_AUTHORIZED],
            "the broker did not unsubscribe old/#: not authorized (reason code 0x87)",
        ),
        (
            [mqtt5.UnsubAckReasonCode.SUCCESS] * 2,
            "the broker did not unsubscribe old/#: 2 reason codes instead of one",
        ),
    ],
)
async def test_unsubscribe(codes: list[UnsubAckReasonCode], said: str | None) -> None:
    async with FakeBroker() as broker, opened(broker) as (connection, session):
        unsubscribing = asyncio.create_task(connection.unsubscribe("old/#"))
        packet = await session.expect(mqtt5.UnsubscribePacket)
        assert packet.patterns == ["old/#"]
        session.send(mqtt5.UnsubAckPacket(packet.packet_id, codes))
        assert await unsubscribing == said


# To notice the end


async def test_pings_keep_an_idle_connection_alive_and_the_broker_sets_the_pace() -> None:
    async with FakeBroker() as broker:
        options = broker.options(keepalive_seconds=600)
        async with opened(broker, options=options, server_keep_alive=1) as (connection, session):
            for _ in range(4):  # 1.3 s: longer than a silent broker is suffered
                await session.expect(mqtt5.PingReqPacket)
                session.send(mqtt5.PingRespPacket())
            assert connection.is_open


async def test_a_broker_that_falls_silent_is_noticed() -> None:
    async with (
        FakeBroker() as broker,
        opened(broker, options=broker.options(keepalive_seconds=1)) as (connection, session),
    ):
        started = time.monotonic()
        async with asyncio.timeout(30):
            error = await connection.closed()
        assert time.monotonic() - started > 0.9  # that it is soon after is what the three pings say
        assert str(error) == f"the broker at mqtt://127.0.0.1:{broker.port} has been silent for 1.0 s"
        assert not connection.is_open
        assert [type(packet) for packet in await session.until_closed()] == [mqtt5.PingReqPacket] * 3


async def test_paused_reading_is_not_mistaken_for_a_silent_broker() -> None:
    got: list[bytes] = []
    async with FakeBroker() as broker:
        options = broker.options(keepalive_seconds=1)
        async with opened(broker, lambda _, packets: got.extend(p.payload for p in packets), options=options) as (
            connection,
            session,
        ):
            connection.pause_reading()
            session.send(mqtt5.PublishPacket("a", b"waiting"))
            for _ in range(5):  # 1.7 s; the broker hears from us all the time, we do not hear the broker
                await session.expect(mqtt5.PingReqPacket)
            assert connection.is_open
            assert got == []
            connection.resume_reading()
            session.send(mqtt5.PublishPacket("a", b"next"))
            await wait_until_async(lambda: got == [b"waiting", b"next"])
            assert connection.is_open


async def test_silence_after_a_pause_is_noticed_again() -> None:
    async with (
        FakeBroker() as broker,
        opened(broker, options=broker.options(keepalive_seconds=1)) as (connection, session),
    ):
        connection.pause_reading()
        connection.pause_reading()
        await session.expect(mqtt5.PingReqPacket)
        connection.resume_reading()
        connection.resume_reading()
        async with asyncio.timeout(30):
            assert "silent" in str(await connection.closed())


@pytest.mark.parametrize("reset", [False, True])
async def test_a_cut_is_noticed_at_once(reset: bool) -> None:
    async with FakeBroker() as broker, opened(broker) as (connection, session):
        waiting = [asyncio.create_task(connection.closed()) for _ in range(3)]
        await asyncio.sleep(0)
        waiting[0].cancel()  # who stops waiting takes nothing from the others
        if reset:
            session.reset()
        else:
            session.close()
        async with asyncio.timeout(1):
            errors = [await task for task in waiting[1:]]
        assert errors[0] is errors[1]
        assert f"the connection to the broker at mqtt://127.0.0.1:{broker.port} was cut" in str(errors[0])
        assert isinstance(errors[0], LinkLost)


async def test_a_cut_is_noticed_although_reading_is_paused() -> None:
    async with (
        FakeBroker() as broker,
        opened(broker, options=broker.options(keepalive_seconds=1)) as (connection, session),
    ):
        connection.pause_reading()
        session.reset()
        async with asyncio.timeout(2):
            assert "was cut" in str(await connection.closed())


async def test_a_session_that_was_taken_over_is_final_and_names_the_client_id() -> None:
    async with (
        FakeBroker() as broker,
        opened(broker, options=broker.options(client_id="twin")) as (connection, session),
    ):
        session.send(mqtt5.DisconnectPacket(reason_code=mqtt5.DisconnectReasonCode.SESSION_TAKEN_OVER))
        async with asyncio.timeout(1):
            error = await connection.closed()
        assert type(error) is LinkRefused
        assert "client id 'twin'" in str(error)


# To end it


async def test_disconnect_says_goodbye_after_everything_else() -> None:
    async with FakeBroker() as broker, opened(broker) as (connection, session):
        connection.acknowledge([3, 1])
        async with asyncio.timeout(1):
            await connection.disconnect()
        packets = await session.until_closed()
        assert [type(packet) for packet in packets] == [
            mqtt5.PubAckPacket,
            mqtt5.PubAckPacket,
            mqtt5.DisconnectPacket,
        ]
        assert str(await connection.closed()) == "we disconnected"
        assert connection.acknowledge([4]) is False
        await connection.disconnect()  # a second time is harmless
        connection.pause_reading()
        connection.resume_reading()


async def test_disconnect_does_not_wait_for_a_broker_that_takes_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("mqtt.network.CLOSE_SECONDS_MAX", 0.2)
    async with FakeBroker() as broker, opened(broker) as (connection, session):
        session.stop_reading()
        await fill(connection)
        async with asyncio.timeout(1):
            await connection.disconnect()
            await connection.closed()


async def test_who_gives_up_disconnecting_leaves_no_connection_behind() -> None:
    async with FakeBroker() as broker, opened(broker) as (connection, session):
        session.stop_reading()
        await fill(connection)
        leaving = asyncio.create_task(connection.disconnect())
        await asyncio.sleep(0.05)
        assert not leaving.done()
        leaving.cancel()
        with pytest.raises(asyncio.CancelledError):
            await leaving
        async with asyncio.timeout(1):
            await connection.closed()


async def test_the_first_reason_is_the_one_that_counts() -> None:
    async with FakeBroker() as broker, opened(broker) as (connection, _):
        connection.abort(LinkLost("first"))
        connection.abort(LinkLost("second"))
        assert str(await connection.closed()) == "first"
        with pytest.raises(LinkLost, match="first"):
            await connection.subscribe("a")
        with pytest.raises(LinkLost, match="first"):
            await connection.publish("a", b"")


async def fill(connection: Connection) -> None:
    """Publish until neither socket nor buffer takes more."""
    while connection._writable.is_set():
        await connection.publish("a", b"x" * 100_000, qos=0)
