"""What can go wrong between us and the broker, in words for the person who runs it.

Three kinds, by what the caller does next: `LinkLost` (wait, the link reconnects), `PublishRefused` (this message will
not be stored, the next one may), `LinkRefused` (give up: only a person can change it).
"""

from __future__ import annotations

import errno
import os
import re
import socket
import ssl
from collections.abc import Mapping, Sequence
from enum import IntEnum

import mqtt5

from config.broker import BrokerAddress
from config.errors import WattlineError

_Connack = mqtt5.ConnAckReasonCode
_Disconnect = mqtt5.DisconnectReasonCode
_Puback = mqtt5.PubAckReasonCode
_Suback = mqtt5.SubAckReasonCode


class LinkError(WattlineError):
    """The message says what happened and what to do; it never holds a password."""


class LinkLost(LinkError):  # noqa: N818 - a state, not a mistake
    """Not connected, or cut off before an answer came: the outcome of what was under way is unknown."""


class LinkRefused(LinkError):  # noqa: N818
    """The broker will not serve us, and trying again does not help."""


class PublishRefused(LinkError):  # noqa: N818
    """The broker answered a PUBLISH with a reason code that means: nobody stores it."""

    def __init__(self, code: int, text: str) -> None:
        super().__init__(text)
        self.code = code


# Keyed by number: the codec's reason codes have no hash.
_CONNECT_ADVICE: Mapping[int, str] = {
    int(
        _Connack.UNSUPPORTED_PROTOCOL_VERSION
    ): "it does not speak MQTT 5; use a broker that does (Mosquitto 1.6 or later)",
    int(_Connack.CLIENT_ID_NOT_VALID): "it does not accept the client id; change MQTT_CLIENT_ID",
    int(_Connack.BAD_USER_NAME_OR_PASSWORD): "wrong user name or password; check them in MQTT_URL",
    int(_Connack.NOT_AUTHORIZED): "not authorized; check user and password in MQTT_URL and the broker's access rules",
    int(_Connack.SERVER_UNAVAILABLE): "it is not available at the moment",
    int(_Connack.SERVER_BUSY): "it is busy",
    int(_Connack.BANNED): "this client is banned; ask who runs the broker",
    int(_Connack.BAD_AUTHENTICATION_METHOD): "it wants an authentication method that wattline does not have",
    int(_Connack.PACKET_TOO_LARGE): "the CONNECT packet was too large for it; use a shorter MQTT_CLIENT_ID",
    int(_Connack.QUOTA_EXCEEDED): "a quota of the broker is exceeded (connections, or sessions)",
    int(_Connack.QUALITY_NOT_SUPPORTED): "it does not take QoS 1, which wattline needs",
    int(_Connack.USE_ANOTHER_SERVER): "it asks to use another server; change MQTT_URL",
    int(_Connack.SERVER_MOVED): "it has moved for good; change MQTT_URL",
    int(_Connack.CONNECTION_RATE_EXCEEDED): "too many connections at a time; it asks to slow down",
}

_DISCONNECT_ADVICE: Mapping[int, str] = {
    int(_Disconnect.NORMAL_DISCONNECTION): "it closed the connection normally",
    int(_Disconnect.MALFORMED_PACKET): "it could not read a packet of ours (please report this)",
    int(_Disconnect.PROTOCOL_ERROR): "it saw a violation of the protocol (please report this)",
    int(_Disconnect.NOT_AUTHORIZED): "not authorized; check the broker's access rules",
    int(_Disconnect.SERVER_BUSY): "it is too busy to go on",
    int(_Disconnect.SERVER_SHUTTING_DOWN): "it is shutting down",
    int(_Disconnect.KEEP_ALIVE_TIMEOUT): "it heard nothing from us for too long; is the network cut?",
    int(_Disconnect.SESSION_TAKEN_OVER): "another client connected with the same client id",
    int(_Disconnect.RECEIVE_MAX_EXCEEDED): "we sent more unacknowledged messages than it allows (please report this)",
    int(_Disconnect.PACKET_TOO_LARGE): "a packet of ours was too large for it",
    int(_Disconnect.MESSAGE_RATE_TOO_HIGH): "too many messages a second for it",
    int(_Disconnect.QUOTA_EXCEEDED): "a quota of the broker is exceeded",
    int(_Disconnect.QOS_NOT_SUPPORTED): "it does not take QoS 1, which wattline needs",
    int(_Disconnect.ADMINISTRATIVE_ACTION): "it was told to disconnect us; ask who runs the broker",
    int(_Disconnect.USE_ANOTHER_SERVER): "it asks to use another server; change MQTT_URL",
    int(_Disconnect.SERVER_MOVED): "it has moved for good; change MQTT_URL",
    int(_Disconnect.SHARED_SUBSCRIPTIONS_NOT_SUPPORTED): "it has no shared subscriptions; unset MQTT_SHARE_GROUP",
    int(_Disconnect.CONNECTION_RATE_EXCEEDED): "too many connections at a time; it asks to slow down",
    int(_Disconnect.MAX_CONNECT_TIME): "the longest time it allows a connection is over",
    int(_Disconnect.WILDCARD_SUBSCRIPTIONS_NOT_SUPPORTED): "it has no wildcard subscriptions, which wattline needs",
}

_PUBLISH_ADVICE: Mapping[int, str] = {
    int(
        _Puback.NO_MATCHING_SUBSCRIBERS
    ): "nobody is subscribed, so the message was discarded; is the ingestor running?",
    int(_Puback.NOT_AUTHORIZED): "not authorized to publish there; check the broker's access rules",
    int(_Puback.TOPIC_NAME_INVALID): "it does not accept the topic",
    int(_Puback.QUOTA_EXCEEDED): "a quota of the broker is exceeded (its queue is full, perhaps)",
    int(_Puback.PAYLOAD_FORMAT_INVALID): "it does not accept the payload",
}

_SUBSCRIBE_ADVICE: Mapping[int, str] = {
    int(_Suback.GRANTED_QOS_AT_MOST_ONCE): "it grants QoS 0 only, and wattline needs QoS 1 to lose nothing",
    int(_Suback.NOT_AUTHORIZED): "not authorized; allow this user to read it in the broker's access rules",
    int(_Suback.TOPIC_FILTER_INVALID): "it does not accept the filter",
    int(_Suback.QUOTA_EXCEEDED): "a quota of the broker is exceeded",
    int(_Suback.SHARED_SUBSCRIPTIONS_NOT_SUPPORTED): "it has no shared subscriptions; unset MQTT_SHARE_GROUP",
    int(_Suback.WILDCARD_SUBSCRIPTIONS_NOT_SUPPORTED): "it has no wildcard subscriptions",
}

# By OpenSSL's number for what is wrong with the certificate: an unknown signer, another name. Others (expired, not yet
# valid) need no advice.
_CERTIFICATE_ADVICE: Mapping[int, str] = {
    **dict.fromkeys((18, 19, 20, 21), "; set MQTT_TLS_CA to the CA that signed it"),
    **dict.fromkeys((62, 64), "; MQTT_URL must name the broker as its certificate does"),
}

# Only a person can change these; everything else may pass, so the link goes on trying.
_FINAL = (_Connack.UNSUPPORTED_PROTOCOL_VERSION, _Connack.CLIENT_ID_NOT_VALID)


def connect_refused(
    broker: str, code: mqtt5.ConnAckReasonCode, said: str | None, elsewhere: str | None = None
) -> LinkError:
    """The error for a CONNACK other than success; `said` is the broker's own reason string, `elsewhere` where it sends
    us.
    """
    text = f"the broker at {broker} refused the connection: {_worded(_CONNECT_ADVICE, code, said)}{_there(elsewhere)}"
    return LinkRefused(text) if code in _FINAL else LinkLost(text)


def speaks_311_only(broker: str) -> LinkRefused:
    """The error for a CONNACK of MQTT 3.1.1."""
    return LinkRefused(
        f"the broker at {broker} speaks MQTT 3.1.1 only; use one that speaks MQTT 5 (Mosquitto 1.6 or later)"
    )


def unfit(broker: str, why: str) -> LinkLost:
    """The error for a broker that grants less than is needed; its settings may change."""
    return LinkLost(f"the broker at {broker} cannot serve us: {why}")


def disconnected(broker: str, packet: mqtt5.DisconnectPacket, client_id: str) -> LinkError:
    """The error for a DISCONNECT from the broker."""
    code = packet.reason_code
    if code == _Disconnect.SESSION_TAKEN_OVER:
        return LinkRefused(
            f"another client connected to the broker at {broker} with the client id {client_id!r} "
            "and took our session; give every ingestor an MQTT_CLIENT_ID of its own"
        )
    why = _worded(_DISCONNECT_ADVICE, code, packet.reason_str)
    return LinkLost(f"the broker at {broker} disconnected us: {why}{_there(packet.server_reference)}")


def publish_refused(code: mqtt5.PubAckReasonCode, said: str | None) -> PublishRefused:
    """The error for a PUBACK other than success."""
    return PublishRefused(int(code), f"the broker did not take the message: {_worded(_PUBLISH_ADVICE, code, said)}")


def too_large_to_publish(size: int, size_max: int) -> PublishRefused:
    """The error for a PUBLISH that is larger than the broker said it takes; it was not sent."""
    return PublishRefused(
        int(_Disconnect.PACKET_TOO_LARGE), f"the message makes a packet of {size} bytes, the broker takes {size_max}"
    )


def subscribe_refused(topic_filter: str, codes: Sequence[mqtt5.SubAckReasonCode], said: str | None) -> LinkLost:
    """The error for a SUBACK to one filter that grants anything but QoS 1."""
    why = _worded(_SUBSCRIBE_ADVICE, codes[0], said) if len(codes) == 1 else f"{len(codes)} reason codes instead of one"
    return LinkLost(f"the broker refused the subscription to {topic_filter}: {why}")


def not_unsubscribed(topic_filter: str, codes: Sequence[mqtt5.UnsubAckReasonCode], said: str | None) -> str:
    """What to say about an UNSUBACK that is a failure: messages may come twice, which is harmless."""
    why = _worded({}, codes[0], said) if len(codes) == 1 else f"{len(codes)} reason codes instead of one"
    return f"the broker did not unsubscribe {topic_filter}: {why}"


def unreachable(broker: BrokerAddress, error: OSError | UnicodeError, seconds: float) -> LinkLost:
    """The error for a connection that did not come about within `seconds`, network and TLS included."""
    match error:
        case TimeoutError():
            text = f"no answer from the broker at {broker} within {seconds:g} s; check MQTT_URL"
        case socket.gaierror() | UnicodeError():
            text = f"the broker's host {broker.host!r} is not known; check MQTT_URL"
        case ssl.SSLCertVerificationError():
            advice = _CERTIFICATE_ADVICE.get(error.verify_code, "")
            text = f"the certificate of the broker at {broker} is not trusted ({error.verify_message}){advice}"
        case ssl.SSLError() | ConnectionResetError() | ConnectionAbortedError() if broker.tls:
            text = f"no TLS with the broker at {broker} ({_why(error)}); is that its TLS port?"
        case _:
            text = f"no connection to a broker at {broker} ({_why(error)}); is it running? Check MQTT_URL"
    return LinkLost(text)


def wrong_port(broker: BrokerAddress, what: str, error: Exception | None = None) -> LinkLost:
    """The error for something that answers our CONNECT as no MQTT 5 broker does."""
    why = f" ({_why(error)})" if error is not None else ""
    if broker.tls:  # TLS itself has worked; version 1.3 refuses a client only after it has begun to talk
        hint = "is it an MQTT 5 broker, and does it want a client certificate (MQTT_TLS_CERT, MQTT_TLS_KEY)?"
    else:
        hint = "is it an MQTT 5 broker, and is its port the right one (a TLS port needs mqtts:// in MQTT_URL)?"
    return LinkLost(f"the broker at {broker} {what}{why}; {hint}")


def lost(broker: BrokerAddress, error: Exception | None) -> LinkLost:
    """The error for a connection that ended without a word."""
    why = f": {_why(error)}" if error is not None else ""
    return LinkLost(f"the connection to the broker at {broker} was cut{why}")


def _worded(advice: Mapping[int, str], code: IntEnum, said: str | None) -> str:
    text = advice.get(int(code)) or code.name.lower().replace("_", " ")
    said_too = f"; it says: {said[:200]!r}" if said else ""
    return f"{text} (reason code 0x{int(code):02X}){said_too}"


def _there(elsewhere: str | None) -> str:
    return f"; it names {elsewhere[:200]!r}" if elsewhere else ""


# A machine without IPv6 says this of each name that has an address of that family too: of interest only alone.
_NO_SUCH_FAMILY = (errno.EADDRNOTAVAIL, errno.EAFNOSUPPORT, errno.ENETUNREACH)


def _why(error: Exception) -> str:
    reason: str | None = getattr(error, "reason", None)
    if isinstance(error, ssl.SSLError) and reason is not None:
        return reason.lower().replace("_", " ")
    # asyncio's own texts name addresses, and join the errors of several into one; the numbers say what went wrong.
    numbers = dict.fromkeys(map(int, re.findall(r"\[Errno (\d+)\]", str(error))))
    telling = [number for number in numbers if number not in _NO_SUCH_FAMILY] or numbers
    said = [os.strerror(number).lower() for number in telling]
    return ", ".join(said) or str(error).lower() or type(error).__name__
