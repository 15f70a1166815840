"""TLS and passwords against a real broker: who gets in, and what is said to whoever does not."""

from __future__ import annotations

import asyncio
import base64
import hashlib
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from mqtt5 import PublishPacket

from config.errors import SettingsError
from config.settings import load_settings
from mqtt.errors import LinkLost
from mqtt.link import Connection, Link, LinkOptions
from tests.certificates import NEEDS_OPENSSL, make_authority, openssl, sign
from tests.fake_broker import anyio_backend, nothing_left_behind  # noqa: F401 - fixtures
from tests.guarded_broker import PASSWORDS, TLS, GuardedBroker
from tests.waiting import wait_until_async

pytestmark = [
    pytest.mark.anyio,
    NEEDS_OPENSSL,
]

PASSWORD = "it's a secret"


CLIENT_CERTIFICATE = "require_certificate true\n"


@pytest.fixture(autouse=True)
def elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where no `.env` of a developer is."""
    monkeypatch.chdir(tmp_path)


@pytest.fixture(scope="session")
def certificates(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a CA and what it signed: server.pem for 127.0.0.1, elsewhere.pem for another name, client.pem."""
    folder = tmp_path_factory.mktemp("certificates")
    for name in ("ca", "stranger"):
        make_authority(folder, name)
    for name, subject in (("server", "IP:127.0.0.1"), ("elsewhere", "DNS:elsewhere.example"), ("client", "DNS:client")):
        sign(folder, name, subject)
    openssl(folder, "ec", "-in", "client.key", "-aes256", "-passout", "pass:x", "-out", "locked.key")
    return folder


@pytest.fixture
def tls_broker(guarded: Callable[..., GuardedBroker], certificates: Path) -> Callable[..., GuardedBroker]:
    """`tls_broker(more_lines, server="server")`: one with a TLS listener, and a plain one."""

    def start(more: str = "", server: str = "server") -> GuardedBroker:
        files = {
            "ca.pem": (certificates / "ca.pem").read_text(),
            "server.pem": (certificates / f"{server}.pem").read_text(),
            "server.key": (certificates / f"{server}.key").read_text(),
        }
        return guarded(f"{TLS}cafile ca.pem\n{more}", files)

    return start


def options(url: str, **settings: Any) -> LinkOptions:
    made = LinkOptions.from_settings(load_settings(mqtt_url=url, **settings), client_id="tester")
    return LinkOptions(**{**vars(made), "connect_timeout_seconds": 3.0})


async def failure(given: LinkOptions) -> str:
    with pytest.raises(LinkLost) as raised:
        async with asyncio.timeout(5):
            await Connection.open(given)
    return str(raised.value)


# TLS


async def test_a_certificate_of_our_ca_is_trusted_and_everything_works_as_without(
    tls_broker: Callable[..., GuardedBroker], certificates: Path
) -> None:
    broker = tls_broker()
    given = options(f"mqtts://127.0.0.1:{broker.tls_port}", mqtt_tls_ca=str(certificates / "ca.pem"))
    got: list[bytes] = []

    def receive(connection: Connection, packets: list[PublishPacket]) -> None:
        got.extend(packet.payload for packet in packets)
        connection.acknowledge([packet.packet_id for packet in packets if packet.packet_id is not None])

    async with Link(given, subscribe=["v1/#"], on_publish=receive) as link:
        await link.wait_connected(30)
        payloads = [b"%d" % number * 1000 for number in range(1000)]
        await asyncio.gather(*(link.publish("v1/telemetry/meter/M", payload) for payload in payloads))
        await wait_until_async(lambda: len(got) == 1000)
        assert got == payloads
        first = link.connection
        assert first is not None
        first.pause_reading()
        await link.publish("v1/telemetry/meter/M", b"0", qos=0)
        first.resume_reading()
        await wait_until_async(lambda: got[-1] == b"0")
        broker.stop()
        await wait_until_async(lambda: link.connection is None)
        broker.start()
        await link.wait_connected(30)
        await link.publish("v1/telemetry/meter/M", b"after")
        await wait_until_async(lambda: got[-1] == b"after")
    broker.stop()  # which writes its log
    last = [line for line in broker.log.read_text().splitlines() if "Client tester" in line][-1]
    assert last.endswith("Client tester disconnected.")


@pytest.mark.parametrize("ca", [None, "stranger.pem"])
async def test_a_certificate_of_somebody_elses_ca_is_not_trusted(
    tls_broker: Callable[..., GuardedBroker], certificates: Path, ca: str | None
) -> None:
    url = f"mqtts://127.0.0.1:{tls_broker().tls_port}"
    given = options(url) if ca is None else options(url, mqtt_tls_ca=str(certificates / ca))
    text = await failure(given)
    assert text.startswith(f"the certificate of the broker at {url} is not trusted (")
    assert text.endswith("); set MQTT_TLS_CA to the CA that signed it")


async def test_a_certificate_for_another_name_is_not_trusted(
    tls_broker: Callable[..., GuardedBroker], certificates: Path
) -> None:
    url = f"mqtts://127.0.0.1:{tls_broker(server='elsewhere').tls_port}"
    text = await failure(options(url, mqtt_tls_ca=str(certificates / "ca.pem")))
    assert "IP address mismatch" in text
    assert text.endswith("; MQTT_URL must name the broker as its certificate does")


async def test_tls_to_a_plain_port(tls_broker: Callable[..., GuardedBroker], certificates: Path) -> None:
    url = f"mqtts://127.0.0.1:{tls_broker().port}"
    text = await failure(options(url, mqtt_tls_ca=str(certificates / "ca.pem")))
    assert text.startswith(f"no TLS with the broker at {url} (")
    assert text.endswith("); is that its TLS port?")


async def test_no_tls_to_a_tls_port(tls_broker: Callable[..., GuardedBroker]) -> None:
    text = await failure(options(f"mqtt://127.0.0.1:{tls_broker().tls_port}"))
    assert text.endswith("is its port the right one (a TLS port needs mqtts:// in MQTT_URL)?")


async def test_a_client_certificate_opens_the_door(
    tls_broker: Callable[..., GuardedBroker], certificates: Path
) -> None:
    broker = tls_broker(CLIENT_CERTIFICATE)
    url, ca = f"mqtts://127.0.0.1:{broker.tls_port}", str(certificates / "ca.pem")
    key, certificate = str(certificates / "client.key"), str(certificates / "client.pem")
    connection = await Connection.open(options(url, mqtt_tls_ca=ca, mqtt_tls_cert=certificate, mqtt_tls_key=key))
    await connection.disconnect()
    text = await failure(options(url, mqtt_tls_ca=ca))
    assert text.endswith("does it want a client certificate (MQTT_TLS_CERT, MQTT_TLS_KEY)?")


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"mqtt_tls_ca": "none.pem"}, "MQTT_TLS_CA: cannot use none.pem: No such file or directory"),
        ({"mqtt_tls_ca": "server.ext"}, "MQTT_TLS_CA: cannot use server.ext: not a usable PEM file"),
        ({"mqtt_tls_ca": "."}, "MQTT_TLS_CA: cannot use .: "),
        ({"mqtt_tls_cert": "client.pem", "mqtt_tls_key": "none.key"}, "cannot use client.pem, none.key: No such file"),
        ({"mqtt_tls_cert": "client.pem", "mqtt_tls_key": "server.key"}, "cannot use client.pem, server.key: "),
        ({"mqtt_tls_cert": "client.pem", "mqtt_tls_key": "locked.key"}, "cannot use client.pem, locked.key: "),
        ({"mqtt_tls_cert": "client.key", "mqtt_tls_key": "client.key"}, "cannot use client.key, client.key: "),
    ],
)
async def test_a_file_that_cannot_be_used_is_named(
    certificates: Path, monkeypatch: pytest.MonkeyPatch, given: dict[str, str], said: str
) -> None:
    monkeypatch.chdir(certificates)
    with pytest.raises(SettingsError) as raised:
        options("mqtts://127.0.0.1", **given)
    assert said in str(raised.value)
    assert "\n" not in str(raised.value)


# Passwords


def password_line(user: str, password: str) -> str:
    """As mosquitto_passwd writes it: PBKDF2 with SHA-512."""
    salt = os.urandom(12)
    digest = hashlib.pbkdf2_hmac("sha512", password.encode(), salt, 101)
    return f"{user}:$7$101${base64.b64encode(salt).decode()}${base64.b64encode(digest).decode()}\n"


async def test_a_password_is_asked_for(guarded: Callable[..., GuardedBroker]) -> None:
    broker = guarded(PASSWORDS, {"passwords": password_line("ann", PASSWORD)})
    right = f"mqtt://ann:it%27s%20a%20secret@127.0.0.1:{broker.port}"
    await (await Connection.open(options(right))).disconnect()
    for wrong in (f"mqtt://ann:{PASSWORD}!@127.0.0.1:{broker.port}", f"mqtt://127.0.0.1:{broker.port}"):
        text = await failure(options(wrong))
        assert text == (
            f"the broker at mqtt://127.0.0.1:{broker.port} refused the connection: not authorized; check user and "
            "password in MQTT_URL and the broker's access rules (reason code 0x87)"
        )
        assert "secret" not in text


async def cut_and_back(link: Link) -> None:
    """Let the link connect once more."""
    assert link.connection is not None
    link.connection.abort(LinkLost("cut by the test"))
    assert link.connection is None
    await link.wait_connected(30)


async def test_a_rotated_certificate_is_read_again_and_a_bad_one_is_not(
    tls_broker: Callable[..., GuardedBroker], certificates: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    broker = tls_broker(CLIENT_CERTIFICATE)
    files = {name: tmp_path / name for name in ("ca.pem", "client.pem", "client.key")}

    def put(name: str, source: str) -> None:
        """As a renewal does: a new file takes the name of the old one."""
        beside = tmp_path / "new"
        beside.write_text((certificates / source).read_text() if source else "no certificate")
        beside.replace(files[name])

    put("ca.pem", "stranger.pem")
    put("client.pem", "client.pem")
    put("client.key", "client.key")
    given = options(
        f"mqtts://127.0.0.1:{broker.tls_port}",
        mqtt_tls_ca=str(files["ca.pem"]),
        mqtt_tls_cert=str(files["client.pem"]),
        mqtt_tls_key=str(files["client.key"]),
    )
    async with Link(given) as link:
        await wait_until_async(lambda: "is not trusted" in caplog.text, 30)
        put("ca.pem", "ca.pem")
        await link.wait_connected(30)
        put("client.pem", "")
        await cut_and_back(link)
        await cut_and_back(link)
        complaints = [record.message for record in caplog.records if "stays in use" in record.message]
        assert len(complaints) == 1
        assert complaints[0].startswith("MQTT_TLS_CERT, MQTT_TLS_KEY: cannot use ")
        put("client.pem", "stranger.pem")  # a pair that does not belong together is no better
        await cut_and_back(link)
        files["client.pem"].unlink()
        await cut_and_back(link)
        assert len([record for record in caplog.records if "stays in use" in record.message]) == 3
