"""The real broker by mosquitto/production.conf, its accounts, and clients that try what they may not do."""

from __future__ import annotations

import ssl
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import paho.mqtt.client as paho
from paho.mqtt.enums import CallbackAPIVersion, MQTTProtocolVersion
from paho.mqtt.packettypes import PacketTypes
from paho.mqtt.properties import Properties

from access.certificates import Certificate, issue, make_authority, revoked
from access.folder import put
from access.lists import Entry
from embedded.ports import free_ports
from embedded.secure_mosquitto import SecureMosquittoServer
from tests.waiting import wait_until

TAKEN = ("Success", "No matching subscribers")
SECRET = "a secret of twelve and more"
INGESTOR, GATEWAY, MONITOR = "telemetry", "wattline-gateway", "wattline-monitor"
PARTS = {INGESTOR: ("ingestor", SECRET), GATEWAY: ("gateway", SECRET), MONITOR: ("monitor", SECRET)}


class GuardedByUs(SecureMosquittoServer):
    """The secure broker, with the listener for client certificates as well, and perhaps with a protection less."""

    def __init__(self, folder: Path, devices: list[str], weakened: Mapping[str, str] | None = None) -> None:
        """`weakened`: lines of the configuration, and what stands in their place."""
        super().__init__(folder)
        self.certificate_port = free_ports(1)[0]
        self._weakened = weakened or {}
        self.set_up(PARTS, [Entry(device, SECRET) for device in devices])
        self.authority = Certificate(self.ca_file.read_text(), (self.folder / "ca.key").read_text())
        self.lost = issue(self.authority, devices[0])
        put(self.access / "devices-ca.pem", self.authority.certificate)
        put(self.access / "revoked.pem", revoked(self.authority, [self.lost.certificate]))
        self.stranger = make_authority("stranger")
        put(self.access / "any-ca.pem", self.authority.certificate + self.stranger.certificate)

    def _configuration(self) -> str:
        text = super()._configuration().replace("#- ", "").replace("listener 8884", f"listener {self.certificate_port}")
        for line, instead in self._weakened.items():
            assert f"\n{line}\n" in text, line
            text = text.replace(f"\n{line}\n", f"\n{instead}\n")
        return text


class Client:
    """One connection, as a device or an impostor makes it; it does not connect again by itself."""

    def __init__(  # noqa: PLR0913 - whatever an impostor may choose
        self,
        broker: GuardedByUs,
        account: str | None,
        *,
        secret: str = SECRET,
        client_id: str = "",
        context: ssl.SSLContext | None = None,
        port: int | None = None,
        will: tuple[str, bytes, bool] | None = None,
        keeps_session: bool = False,
        protocol: int = paho.MQTTv5,
    ) -> None:
        self.received: list[tuple[str, bytes]] = []
        self.ended: list[str] = []
        self.refused: str | None = None
        self._welcomes: list[Any] = []
        self._answers: dict[int, str] = {}
        self._subscribed: list[list[str]] = []
        client = self._client = paho.Client(
            CallbackAPIVersion.VERSION2,
            client_id,
            protocol=MQTTProtocolVersion(protocol),
            reconnect_on_failure=False,
        )
        client.max_inflight_messages_set(1000)
        client.tls_set_context(context or trusting(broker))
        if account is not None:
            client.username_pw_set(account, secret)
        if will is not None:
            client.will_set(will[0], will[1], qos=1, retain=will[2])
        client.on_connect = lambda _c, _d, _flags, reason, _p: self._welcomes.append(reason)
        client.on_disconnect = lambda _c, _d, _flags, reason, _p: self.ended.append(str(reason))
        client.on_publish = lambda _c, _d, mid, reason, _p: self._answers.__setitem__(mid, str(reason))
        client.on_subscribe = lambda _c, _d, _mid, reasons, _p: self._subscribed.append([str(code) for code in reasons])
        client.on_message = lambda _c, _d, message: self.received.append((message.topic, bytes(message.payload)))
        options: dict[str, Any] = {}
        if protocol == paho.MQTTv5:
            options["clean_start"] = not keeps_session
            options["properties"] = lasting = Properties(PacketTypes.CONNECT)
            lasting.SessionExpiryInterval = 3600 if keeps_session else 0
            lasting.ReceiveMaximum = 5000
        try:
            # A handshake that fails leaves paho's socket open; a test that looks for such sockets filters its warning.
            client.connect("127.0.0.1", port or broker.port, **options)
        except OSError as error:
            self.refused = type(error).__name__
            return
        client.loop_start()
        wait_until(lambda: self._welcomes or self.ended, what="an answer to CONNECT")
        if not self._welcomes:
            self.refused = self.ended[0]
        elif self._welcomes[0].is_failure:
            self.refused = str(self._welcomes[0])

    def publish(self, topic: str, payload: bytes = b"x", *, retain: bool = False) -> str:
        """What the broker answered: `Success`, `Not authorized`, or how the connection ended."""
        mid = self._client.publish(topic, payload, qos=1, retain=retain).mid
        wait_until(lambda: mid in self._answers or self.ended, what="an answer to PUBLISH")
        return self._answers.get(mid) or self.ended[0]

    def publish_all(self, topic: str, payloads: list[bytes]) -> list[str]:
        """The same for many at once."""
        mids = [self._client.publish(topic, payload, qos=1).mid for payload in payloads]
        wait_until(lambda: self.ended or all(mid in self._answers for mid in mids), what="an answer to each PUBLISH")
        return [self._answers.get(mid, "none") for mid in mids]

    def subscribe(self, topic_filter: str) -> str:
        """What the broker answered."""
        before = len(self._subscribed)
        self._client.subscribe(topic_filter, qos=1)
        wait_until(lambda: len(self._subscribed) > before or self.ended, what="an answer to SUBSCRIBE")
        return self._subscribed[-1][0] if len(self._subscribed) > before else self.ended[0]

    def leave(self) -> None:
        """Say goodbye."""
        self._client.disconnect()
        self._client.loop_stop()

    def vanish(self) -> None:
        """Go without a word, so that the broker publishes the will."""
        sock = self._client.socket()
        assert sock is not None
        self._client.loop_stop()
        sock.close()


@contextmanager
def client(broker: GuardedByUs, account: str | None, **options: Any) -> Iterator[Client]:
    """A connection that is ended afterwards."""
    made = Client(broker, account, **options)
    try:
        yield made
    finally:
        made.leave()


def trusting(broker: GuardedByUs, certificate: Certificate | None = None) -> ssl.SSLContext:
    """As a device trusts the broker; with a certificate of its own, if it has one."""
    context = ssl.create_default_context(cadata=broker.authority.certificate)
    if certificate is not None:
        file = broker.folder / "client.pem"
        put(file, certificate.certificate + certificate.key)
        context.load_cert_chain(file)
    return context
