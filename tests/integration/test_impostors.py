"""Whoever may not, does not: every attempt against the real broker, by mosquitto/production.conf.

Each is made twice: with the protection, and with just that one taken away, so that a test which cannot fail is noticed.
"""

from __future__ import annotations

import socket
import ssl
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager

import paho.mqtt.client as paho
import pytest

from access.certificates import issue, make_authority
from access.folder import changing
from access.rights import DEVICE
from access.telling import PID_FILE, tell_broker
from tests.secure_broker import GATEWAY, INGESTOR, MONITOR, SECRET, TAKEN, Client, GuardedByUs, client, trusting
from tests.waiting import wait_until

# paho leaves the socket of a handshake that fails to the garbage collector.
pytestmark = pytest.mark.filterwarnings(
    "ignore:Exception ignored in. <ssl.SSLSocket:pytest.PytestUnraisableExceptionWarning"
)

HONEST, ROGUE, COLON = "METER-001", "METER-666", "AA:BB:CC"
OWN, FOREIGN = f"v1/telemetry/meter/{ROGUE}", f"v1/telemetry/meter/{HONEST}"
WITHOUT: Mapping[str, Mapping[str, str]] = {
    "nothing": {},
    "passwords": {"allow_anonymous false": "allow_anonymous true", "password_file access/passwords": ""},
    "rights": {"acl_file access/acl": ""},
    "names": {"use_username_as_clientid true": ""},
    "tls 1.2": {"tls_version tlsv1.2": "tls_version tlsv1.1\nciphers DEFAULT:@SECLEVEL=0"},
    "tls": {"certfile access/server.pem": "", "keyfile access/server.key": "", "tls_version tlsv1.2": ""},
    "authority": {"cafile access/devices-ca.pem": "cafile access/any-ca.pem", "crlfile access/revoked.pem": ""},
}
Start = Callable[[str], GuardedByUs]


@pytest.fixture(scope="module")
def broker_without(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Start]:
    """`broker_without("rights")`: the one that lacks this protection, started once."""
    started: dict[str, GuardedByUs] = {}

    def start(missing: str) -> GuardedByUs:
        if missing not in started:
            weakened = dict(WITHOUT[missing])
            if missing == "tls":
                weakened |= {"cafile access/devices-ca.pem": "", "crlfile access/revoked.pem": ""}
                weakened |= {"require_certificate true": "", "use_identity_as_username true": ""}
            broker = GuardedByUs(tmp_path_factory.mktemp("broker"), [HONEST, ROGUE, COLON], weakened)
            broker.start()
            started[missing] = broker
        return started[missing]

    yield start
    for broker in started.values():
        broker.stop()


def with_and_without(protection: str) -> pytest.MarkDecorator:
    """The test gets the protection that is missing, `nothing` at first."""
    return pytest.mark.parametrize("missing", ["nothing", protection])


def ingestor(broker: GuardedByUs, **options: str) -> AbstractContextManager[Client]:
    """As the ingestor is connected."""
    return client(broker, INGESTOR, keeps_session=True, **options)


def arrives(broker: GuardedByUs, attempt: Callable[[], object]) -> bool:
    """Whether something that the attempt publishes reaches the ingestor; an honest reading comes behind it."""
    with ingestor(broker) as reader:
        assert reader.subscribe("v1/telemetry/#") == "Granted QoS 1"
        attempt()
        with client(broker, HONEST) as honest:
            assert honest.publish(FOREIGN, b"honest") == "Success"
        wait_until(lambda: (FOREIGN, b"honest") in reader.received, what="the honest reading")
        return any(payload != b"honest" for _, payload in reader.received)


# Who gets in


@with_and_without("passwords")
@pytest.mark.parametrize(
    ("account", "secret"),
    [(ROGUE, "not the secret"), (ROGUE, ""), ("METER-777", "any"), (None, ""), (INGESTOR, "guess")],
)
def test_no_entry_without_the_right_password(
    broker_without: Start, missing: str, account: str | None, secret: str
) -> None:
    broker = broker_without(missing)
    if account is None and missing == "passwords":
        account = "anybody"  # a connection without a name gets in nowhere: it has no client id
    with client(broker, account, secret=secret) as impostor:
        assert (impostor.refused is None) == (missing == "passwords")


@with_and_without("tls")
def test_no_entry_without_tls(broker_without: Start, missing: str) -> None:
    broker = broker_without(missing)
    hello = b"\x10\x1c\x00\x04MQTT\x05\x02\x00\x3c\x00\x00\x01a\x00\x09METER-666\x00\x01x"
    hello = hello[:1] + bytes([len(hello) - 2]) + hello[2:]
    hello = hello.replace(b"\x05\x02", b"\x05\xc2")
    with socket.create_connection(("127.0.0.1", broker.port), timeout=10) as plain:
        plain.sendall(hello)
        try:
            answer = plain.recv(4)
        except ConnectionError:
            answer = b""
    assert answer.startswith(b"\x20") == (missing == "tls")  # a CONNACK, whatever it says


@with_and_without("tls 1.2")
def test_no_entry_with_an_older_tls(broker_without: Start, missing: str) -> None:
    broker = broker_without(missing)
    old = trusting(broker)
    old.set_ciphers("DEFAULT:@SECLEVEL=0")
    with pytest.warns(DeprecationWarning, match="TLSVersion"):
        old.minimum_version = old.maximum_version = ssl.TLSVersion.TLSv1_1
    with client(broker, ROGUE, context=old) as impostor:
        assert (impostor.refused is None) == (missing == "tls 1.2")


@with_and_without("authority")
@pytest.mark.parametrize("whose", ["its own", "expired", "a stranger's", "lost", "none"])
def test_no_entry_with_a_certificate_that_is_not_good(broker_without: Start, missing: str, whose: str) -> None:
    broker = broker_without(missing)
    certificate = {
        "its own": issue(broker.authority, ROGUE),
        "expired": issue(broker.authority, ROGUE, days=-1),
        "a stranger's": issue(broker.stranger, ROGUE),
        "lost": broker.lost,
        "none": None,
    }[whose]
    welcome = {"its own"} if missing == "nothing" else {"its own", "a stranger's", "lost"}
    with client(broker, None, context=trusting(broker, certificate), port=broker.certificate_port) as device:
        assert (device.refused is None) == (whose in welcome)
        if whose == "its own":
            assert device.publish(OWN) in TAKEN
            assert device.publish(FOREIGN) == "Not authorized"


def test_a_broker_with_a_certificate_of_somebody_elses_is_not_trusted(broker_without: Start) -> None:
    broker = broker_without("nothing")
    for context in (ssl.create_default_context(), ssl.create_default_context(cadata=make_authority("x").certificate)):
        with client(broker, ROGUE, context=context) as device:
            assert device.refused == "SSLCertVerificationError"


# What a device may do, and what it may not


@pytest.mark.parametrize("device", [HONEST, COLON])
def test_a_device_publishes_its_readings_and_hears_its_receipts(broker_without: Start, device: str) -> None:
    broker = broker_without("nothing")
    account = device.replace(":", "%3A")
    with ingestor(broker) as reader, client(broker, account) as sender:
        assert reader.subscribe("v1/telemetry/#") == "Granted QoS 1"
        assert sender.subscribe(f"v1/receipts/{device}/#") == "Granted QoS 1"
        for kind in ("meter", "vehicle"):
            assert sender.publish(f"v1/telemetry/{kind}/{device}", b"mine") == "Success"
        wait_until(lambda: len(reader.received) >= 2, what="both readings")
        assert reader.publish(f"v1/receipts/{device}/1", b"stored") == "Success"
        wait_until(lambda: sender.received == [(f"v1/receipts/{device}/1", b"stored")], what="the receipt")


@with_and_without("rights")
@pytest.mark.parametrize("protocol", [paho.MQTTv311, paho.MQTTv5])
@pytest.mark.parametrize(
    "topic", [FOREIGN, f"v1/telemetry/vehicle/{HONEST}", "v1/telemetry/other/METER-666", "v1/telemetry", OWN + "/more"]
)
def test_a_device_publishes_on_no_other_topic(broker_without: Start, missing: str, protocol: int, topic: str) -> None:
    broker, answers = broker_without(missing), []

    def attempt() -> None:
        with client(broker, ROGUE, protocol=protocol) as impostor:
            answers.append(impostor.publish(topic))

    assert arrives(broker, attempt) == (missing == "rights")
    if protocol == paho.MQTTv5:  # the older version has no word for it
        assert (answers == ["Not authorized"]) == (missing == "nothing")


@with_and_without("rights")
@pytest.mark.parametrize("topic", ["$CONTROL/dynamic-security/v1", "$CONTROL/broker/v1"])
def test_a_device_controls_nothing(broker_without: Start, missing: str, topic: str) -> None:
    with client(broker_without(missing), ROGUE) as impostor:
        answer = impostor.publish(topic, b'{"commands":[{"command":"listClients"}]}')
        assert (answer == "Not authorized") == (missing == "nothing"), answer


@with_and_without("rights")
@pytest.mark.parametrize(
    "wanted", ["#", "v1/#", "v1/telemetry/#", f"v1/telemetry/+/{HONEST}", "$share/other/v1/telemetry/#"]
)
def test_a_device_hears_nothing_of_others_and_takes_nothing_away(
    broker_without: Start, missing: str, wanted: str
) -> None:
    """By its files Mosquitto grants the subscription and then delivers nothing by it."""
    broker = broker_without(missing)
    with ingestor(broker) as reader, client(broker, ROGUE) as impostor, client(broker, HONEST) as honest:
        reader.subscribe("v1/telemetry/#")
        impostor.subscribe(wanted)
        assert set(honest.publish_all(FOREIGN, [b"%d" % number for number in range(10)])) == {"Success"}
        wait_until(lambda: len({payload for _, payload in reader.received}) >= 10, what="all ten readings")
        reader.publish(f"v1/receipts/{ROGUE}/end", b"end")
        impostor.subscribe(f"v1/receipts/{ROGUE}/#")
        reader.publish(f"v1/receipts/{ROGUE}/end", b"end")
        wait_until(lambda: any(topic.endswith("/end") for topic, _ in impostor.received), what="the end")
        heard = [topic for topic, _ in impostor.received if not topic.endswith("/end")]
        assert bool(heard) == (missing == "rights")


@with_and_without("rights")
def test_a_device_hears_no_receipts_of_others_and_no_figures(broker_without: Start, missing: str) -> None:
    broker = broker_without(missing)
    with client(broker, INGESTOR) as reader, client(broker, ROGUE) as impostor:
        for wanted in ("v1/receipts/#", "$SYS/broker/version"):
            impostor.subscribe(wanted)
        reader.publish(f"v1/receipts/{HONEST}/1", b"theirs")
        reader.publish(f"v1/receipts/{ROGUE}/1", b"own")
        wait_until(lambda: (f"v1/receipts/{ROGUE}/1", b"own") in impostor.received, what="its own receipt")
        assert (len(impostor.received) == 1) == (missing == "nothing")


@with_and_without("names")
def test_nobody_takes_the_ingestors_session(broker_without: Start, missing: str) -> None:
    broker = broker_without(missing)
    client_id = "" if missing == "nothing" else INGESTOR
    with ingestor(broker, client_id=client_id) as reader:
        reader.subscribe("v1/telemetry/#")
    with client(broker, HONEST) as honest:
        assert set(honest.publish_all(FOREIGN, [b"%d" % number for number in range(1000)])) == {"Success"}
    for account in (ROGUE, GATEWAY, MONITOR):
        with client(broker, account, client_id=INGESTOR) as impostor:
            assert impostor.refused is None
    with ingestor(broker, client_id=client_id) as reader:
        reader.subscribe("v1/telemetry/#")
        if missing == "nothing":
            wait_until(lambda: len({payload for _, payload in reader.received}) == 1000, what="all that was queued")
        with client(broker, HONEST) as honest:
            honest.publish(FOREIGN, b"end")
        wait_until(lambda: (FOREIGN, b"end") in reader.received, what="what came later")
        assert len(reader.received) == (1001 if missing == "nothing" else 1)


@with_and_without("rights")
def test_nothing_is_left_on_the_topics_of_others(broker_without: Start, missing: str) -> None:
    """On its own it may leave a reading: there are devices that do, and the next subscriber stores it once."""
    broker, elsewhere = broker_without(missing), f"v1/telemetry/vehicle/{HONEST}"
    with client(broker, ROGUE) as impostor:
        for topic in (elsewhere, f"v1/receipts/{HONEST}/1", "v1/telemetry/more/METER-666"):
            assert (impostor.publish(topic, b"for ever", retain=True) in TAKEN) == (missing == "rights")
        assert impostor.publish(OWN, b"own", retain=True) in TAKEN
    with client(broker, INGESTOR) as reader, client(broker, HONEST) as honest:
        reader.subscribe("v1/#")
        honest.publish(FOREIGN, b"end")
        wait_until(lambda: (FOREIGN, b"end") in reader.received, what="what came later")
        assert ((elsewhere, b"for ever") in reader.received) == (missing == "rights")
        assert reader.received.count((OWN, b"own")) == 1
    with client(broker, ROGUE) as impostor:
        impostor.publish(OWN, b"", retain=True)  # which takes it away for the tests that follow
        impostor.publish(elsewhere, b"", retain=True)


@with_and_without("rights")
def test_a_will_goes_nowhere_else(broker_without: Start, missing: str) -> None:
    broker = broker_without(missing)
    with client(broker, INGESTOR) as reader:
        reader.subscribe("v1/telemetry/#")
        for account in (ROGUE, HONEST):  # whose will is its own affair, and comes behind the other's
            dying = Client(broker, account, will=(FOREIGN, account.encode(), False))
            dying.vanish()
        wait_until(lambda: (FOREIGN, HONEST.encode()) in reader.received, what="the honest will")
        assert ((FOREIGN, ROGUE.encode()) in reader.received) == (missing == "rights")


# wattline's own parts


def test_each_part_may_what_it_needs_and_no_more(broker_without: Start) -> None:
    broker = broker_without("nothing")
    with client(broker, GATEWAY) as gateway:
        assert gateway.publish("v1/telemetry/meter/METER-POSTED") in TAKEN
        assert gateway.publish(f"v1/receipts/{HONEST}/1") == "Not authorized"
    with client(broker, MONITOR) as monitor:
        monitor.subscribe("$SYS/broker/version")
        wait_until(lambda: monitor.received, what="the broker's figures")
        for topic in (FOREIGN, f"v1/telemetry/meter/{MONITOR}", f"v1/receipts/{HONEST}/1"):
            assert monitor.publish(topic) == "Not authorized"
    with client(broker, INGESTOR) as reader:
        for topic in (FOREIGN, f"v1/telemetry/meter/{INGESTOR}", "v1/other"):
            assert reader.publish(topic) == "Not authorized"
    with client(broker, MONITOR) as monitor, client(broker, GATEWAY) as gateway, client(broker, HONEST) as honest:
        for eavesdropper in (monitor, gateway):
            eavesdropper.subscribe("v1/#")
        honest.publish(FOREIGN)
        assert gateway.publish(f"v1/telemetry/meter/{HONEST}") in TAKEN
        assert monitor.publish("v1/other") == "Not authorized"
        assert [message for message in monitor.received + gateway.received if message[0].startswith("v1/")] == []


def test_the_ingestors_right_outlives_a_restart_and_a_reload_while_it_is_away(
    tmp_path_factory: pytest.TempPathFactory,
) -> None:
    """Mosquitto 2.0 forgets the section of a client that is away: with one in place of the pattern all are lost."""
    broker = GuardedByUs(tmp_path_factory.mktemp("broker"), [HONEST])
    broker.start()
    try:
        with ingestor(broker) as reader:
            reader.subscribe("v1/telemetry/#")
        broker.stop()
        broker.start()
        with changing(broker.access) as accounts:
            accounts.add(["METER-NEW"], DEVICE, [SECRET])
        assert "reads its accounts again" in tell_broker(broker.access / PID_FILE, 5)
        wait_until(lambda: gets_in(broker, "METER-NEW"), timeout=10, what="the new account")
        with client(broker, HONEST) as honest:
            answers = honest.publish_all(FOREIGN, [b"%d" % number for number in range(100)])
        assert set(answers) == {"Success"}
        with ingestor(broker) as reader:
            wait_until(
                lambda: len({payload for _, payload in reader.received}) == 100, what="all that was acknowledged"
            )
    finally:
        broker.stop()


def gets_in(broker: GuardedByUs, account: str) -> bool:
    with client(broker, account) as device:
        return device.refused is None
