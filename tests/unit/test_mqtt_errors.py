"""Every word of the broker becomes a sentence that a person understands, and the right kind of error."""

from __future__ import annotations

import errno
import socket
import ssl
from typing import Any

import mqtt5
import pytest

from config.broker import BrokerAddress
from mqtt.errors import (
    LinkError,
    LinkLost,
    LinkRefused,
    PublishRefused,
    connect_refused,
    disconnected,
    lost,
    not_unsubscribed,
    publish_refused,
    subscribe_refused,
    unreachable,
    wrong_port,
)

BROKER = BrokerAddress(host="broker.example", port=1883, tls=False, username="ann", password=None)
NOBODY = "; is it running? Check MQTT_URL"
TLS_BROKER = BROKER.model_copy(update={"port": 8883, "tls": True})


def codes_of(kind: type) -> list[tuple[str, int]]:
    """The names and numbers of a reason code class; it is no Enum that could be listed."""
    return [
        (name, int(getattr(kind, name)))
        for name in dir(kind)
        if name.isupper() and isinstance(getattr(kind, name), kind)
    ]


def goodbye(code: int, **more: Any) -> mqtt5.DisconnectPacket:
    return mqtt5.DisconnectPacket(reason_code=mqtt5.DisconnectReasonCode(code), **more)


def every_error() -> list[tuple[str, int, LinkError]]:
    """(name of the code, code, error) of everything a broker may refuse with."""
    connack = [
        (name, code, connect_refused(str(BROKER), mqtt5.ConnAckReasonCode(code), None))
        for name, code in codes_of(mqtt5.ConnAckReasonCode)
        if code
    ]
    disconnect = [
        (
            name,
            code,
            disconnected(str(BROKER), goodbye(code), "ingestor-1"),
        )
        for name, code in codes_of(mqtt5.DisconnectReasonCode)
    ]
    puback = [
        (name, code, publish_refused(mqtt5.PubAckReasonCode(code), None))
        for name, code in codes_of(mqtt5.PubAckReasonCode)
        if code
    ]
    suback = [
        (name, code, subscribe_refused("v1/#", [mqtt5.SubAckReasonCode(code)], None))
        for name, code in codes_of(mqtt5.SubAckReasonCode)
        if code not in (1, 2)  # granted; 2 is more than we ask for
    ]
    return [*connack, *disconnect, *puback, *suback]


def test_all_codes_are_there() -> None:
    assert len(codes_of(mqtt5.ConnAckReasonCode)) == 22
    assert len(codes_of(mqtt5.DisconnectReasonCode)) == 29


@pytest.mark.parametrize(("name", "code", "error"), every_error())
def test_every_reason_code_is_a_sentence(name: str, code: int, error: LinkLost | LinkRefused | PublishRefused) -> None:
    text = str(error)
    if code == mqtt5.DisconnectReasonCode.SESSION_TAKEN_OVER and isinstance(error, LinkRefused):
        assert "client id 'ingestor-1'" in text
        assert "MQTT_CLIENT_ID" in text
        return
    assert text.endswith(f"(reason code 0x{code:02X})")
    assert "\n" not in text
    sentence = text.removesuffix(f" (reason code 0x{code:02X})").rpartition(": ")[2]
    assert len(sentence.split()) >= 2, "words, not a number"


def test_only_what_a_person_must_change_is_final() -> None:
    final = {name for name, _, error in every_error() if isinstance(error, LinkRefused)}
    assert final == {"UNSUPPORTED_PROTOCOL_VERSION", "CLIENT_ID_NOT_VALID", "SESSION_TAKEN_OVER"}


def test_what_the_broker_says_is_quoted_on_one_line_and_cut() -> None:
    text = str(connect_refused("b", mqtt5.ConnAckReasonCode.BANNED, "go\naway " + "x" * 1000))
    assert "; it says: 'go\\naway xxx" in text
    assert "\n" not in text
    assert len(text) < 400


def test_an_unsubscribe_that_failed() -> None:
    text = not_unsubscribed("old/#", [mqtt5.UnsubAckReasonCode.NOT_AUTHORIZED], "no")
    assert text == "the broker did not unsubscribe old/#: not authorized (reason code 0x87); it says: 'no'"


@pytest.mark.parametrize(
    ("error", "said"),
    [
        (TimeoutError(), "no answer from the broker at {broker} within 10 s; check MQTT_URL"),
        (
            socket.gaierror(-2, "Name or service not known"),
            "the broker's host 'broker.example' is not known; check MQTT_URL",
        ),
        (
            ConnectionRefusedError(errno.ECONNREFUSED, "Connect call failed ('127.0.0.1', 1883)"),
            "no connection to a broker at {broker} (connection refused)" + NOBODY,
        ),
        (
            OSError("Multiple exceptions: [Errno 113] Connect call failed (...), [Errno 111] ..., [Errno 111] ..."),
            "no connection to a broker at {broker} (no route to host, connection refused)" + NOBODY,
        ),
        (  # no IPv6 here, and a name that has an address of it
            OSError("Multiple exceptions: [Errno 111] Connect call failed (...), [Errno 99] ..., [Errno 101] ..."),
            "no connection to a broker at {broker} (connection refused)" + NOBODY,
        ),
        (
            OSError(errno.ENETUNREACH, "Connect call failed (...)"),
            "no connection to a broker at {broker} (network is unreachable)" + NOBODY,
        ),
        (OSError(), "no connection to a broker at {broker} (OSError)" + NOBODY),
    ],
)
@pytest.mark.parametrize("broker", [BROKER, TLS_BROKER])
def test_a_network_that_fails(error: Any, said: str, broker: BrokerAddress) -> None:
    reason = unreachable(broker, error, 10.0)
    assert type(reason) is LinkLost
    assert str(reason) == said.format(broker=broker)


def tls_error() -> ssl.SSLError:
    """A real one, which has a reason."""
    outgoing = ssl.MemoryBIO()
    incoming = ssl.MemoryBIO()
    incoming.write(b"\x20\x03\x00\x86\x00 and more")
    with pytest.raises(ssl.SSLError) as raised:
        ssl.create_default_context().wrap_bio(incoming, outgoing, server_hostname="localhost").do_handshake()
    return raised.value


@pytest.mark.parametrize(
    "error",
    [
        tls_error(),
        ssl.SSLError(1, "something else"),
        ConnectionResetError(errno.ECONNRESET, "Connection reset by peer"),
        ConnectionAbortedError("SSL handshake is taking longer than 60.0 seconds"),
    ],
)
def test_a_tls_that_fails_asks_for_the_port(error: Any) -> None:
    text = str(unreachable(TLS_BROKER, error, 10.0))
    assert text.startswith("no TLS with the broker at mqtts://broker.example:8883 (")
    assert text.endswith("); is that its TLS port?")


def test_an_end_without_a_word() -> None:
    assert str(lost(BROKER, None)) == "the connection to the broker at mqtt://broker.example:1883 was cut"
    reset = ConnectionResetError(errno.ECONNRESET, "Connection reset by peer")
    assert str(lost(BROKER, reset)).endswith(" was cut: connection reset by peer")
    assert "closed (connection reset by peer); is it an MQTT 5 broker" in str(wrong_port(BROKER, "closed", reset))


def test_where_the_broker_sends_us_is_said() -> None:
    moved = goodbye(int(mqtt5.DisconnectReasonCode.SERVER_MOVED), server_reference="other.example:1883")
    assert "change MQTT_URL (reason code 0x9D); it names 'other.example:1883'" in str(disconnected("b", moved, "me"))
    code = mqtt5.ConnAckReasonCode.USE_ANOTHER_SERVER
    assert str(connect_refused("b", code, None, "other.example")).endswith("it names 'other.example'")
