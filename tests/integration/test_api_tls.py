"""The API by TLS: what is spoken, how its certificate is replaced, and that silent handshakes take nobody's place."""

from __future__ import annotations

import asyncio
import shutil
import signal
import socket
import ssl
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from starlette.applications import Starlette
from starlette.responses import PlainTextResponse
from starlette.routing import Route

from config.errors import SettingsError
from serving.certificate import Certificate
from serving.places import Places
from serving.server import BoundedServer, bounded_config
from tests.api_process import prepared_database
from tests.backends import Database
from tests.certificates import NEEDS_OPENSSL, make_authority, sign
from tests.processes import WattlineProcess
from tests.waiting import wait_until

pytestmark = NEEDS_OPENSSL


@pytest.fixture(scope="module")
def certificates(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """first.pem and second.pem for 127.0.0.1, by ca.pem; stranger.pem is another authority's."""
    folder = tmp_path_factory.mktemp("certificates")
    make_authority(folder)
    make_authority(folder, "stranger")
    for name in ("first", "second"):
        sign(folder, name, "IP:127.0.0.1")
    return folder


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory, certificates: Path) -> Path:
    """server.pem and server.key, those of `first` until somebody replaces them."""
    folder = tmp_path_factory.mktemp("served")
    replace(folder, certificates, "first")
    return folder


@pytest.fixture(scope="module")
def api(postgres_server: Database, tmp_path_factory: pytest.TempPathFactory, files: Path) -> Iterator[WattlineProcess]:
    settings: dict[str, Any] = {"API_TLS_CERT": str(files / "server.pem"), "API_TLS_KEY": str(files / "server.key")}
    folder = tmp_path_factory.mktemp("api")
    with prepared_database(postgres_server) as url:
        process = WattlineProcess("api", folder=folder, DATABASE_URL=url, **settings)
        process.start()
        try:
            wait_until(lambda: "serving https://127.0.0.1" in process.output(), what="it serves")
            yield process
        finally:
            process.kill()


def replace(folder: Path, certificates: Path, name: str) -> None:
    for suffix in ("pem", "key"):
        shutil.copy(certificates / f"{name}.{suffix}", folder / f"draft.{suffix}")
        (folder / f"draft.{suffix}").replace(folder / f"server.{suffix}")


def trusting(authority: Path) -> ssl.SSLContext:
    context = ssl.create_default_context(cafile=str(authority))
    context.verify_flags &= ~getattr(ssl, "VERIFY_X509_STRICT", 0)  # as openssl makes authorities
    return context


def shown(api: WattlineProcess, certificates: Path) -> str:
    """The name in the certificate that a new connection is shown."""
    with (
        socket.create_connection(("127.0.0.1", api.http_port), 10) as plain,
        trusting(certificates / "ca.pem").wrap_socket(plain, server_hostname="127.0.0.1") as connection,
    ):
        certificate = connection.getpeercert()
    assert certificate is not None
    subject = dict(pair[0] for pair in certificate["subject"])
    return str(subject["commonName"])


def test_it_is_spoken_by_tls_and_by_nothing_else(api: WattlineProcess, certificates: Path) -> None:
    place = f"127.0.0.1:{api.http_port}/healthz"
    with httpx.Client(verify=trusting(certificates / "ca.pem")) as client:
        assert client.get(f"https://{place}").status_code == 200
        with pytest.raises(httpx.RemoteProtocolError):
            client.get(f"http://{place}")
    with (
        httpx.Client(verify=trusting(certificates / "stranger.pem")) as client,
        pytest.raises(httpx.ConnectError, match="CERTIFICATE_VERIFY_FAILED"),
    ):
        client.get(f"https://{place}")


@pytest.mark.filterwarnings("ignore:ssl.TLSVersion:DeprecationWarning")
def test_old_versions_of_tls_are_refused(api: WattlineProcess) -> None:
    old = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    old.check_hostname, old.verify_mode = False, ssl.CERT_NONE
    old.set_ciphers("DEFAULT:@SECLEVEL=0")
    old.minimum_version, old.maximum_version = ssl.TLSVersion.TLSv1, ssl.TLSVersion.TLSv1_1
    with (
        socket.create_connection(("127.0.0.1", api.http_port), 10) as plain,
        pytest.raises((ssl.SSLError, ConnectionError), match=r"(?i)protocol|alert|reset|eof"),
    ):
        old.wrap_socket(plain)


def test_a_renewed_certificate_is_shown_after_a_signal_and_a_broken_one_never(
    api: WattlineProcess, certificates: Path, files: Path
) -> None:
    url = f"https://127.0.0.1:{api.http_port}/healthz"
    with httpx.Client(verify=trusting(certificates / "ca.pem")) as kept:
        assert kept.get(url).status_code == 200
        assert shown(api, certificates) == "first"
        (files / "server.pem").write_text("-----BEGIN CERTIFICATE-----\nhalf of")
        api.signal(signal.SIGHUP)
        line = "everything stays as it was: API_TLS_CERT, API_TLS_KEY: cannot use"
        wait_until(lambda: line in api.output(), what="what is wrong")
        assert shown(api, certificates) == "first"
        replace(files, certificates, "second")
        api.signal(signal.SIGHUP)
        wait_until(lambda: shown(api, certificates) == "second", what="the new certificate")
        assert kept.get(url).status_code == 200, "who is connected stays so"


def test_a_key_that_does_not_belong_is_one_line(certificates: Path) -> None:
    with pytest.raises(SettingsError, match=r"API_TLS_CERT, API_TLS_KEY: cannot use .*first\.pem, .*second\.key: "):
        Certificate(str(certificates / "first.pem"), str(certificates / "second.key"))
    with pytest.raises(SettingsError, match="No such file"):
        Certificate(str(certificates / "none.pem"), str(certificates / "second.key"))


def test_who_never_ends_a_handshake_makes_place_for_others(certificates: Path) -> None:
    most = 16

    async def answer(_: object) -> PlainTextResponse:
        return PlainTextResponse("served")

    async def asked(port: int) -> bytes:
        reader, writer = await asyncio.open_connection(
            "127.0.0.1", port, ssl=trusting(certificates / "ca.pem"), server_hostname="127.0.0.1"
        )
        writer.write(b"GET / HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")
        found = await reader.read()
        writer.close()
        return found

    async def story() -> None:
        places = Places(most)
        certificate = Certificate(str(certificates / "first.pem"), str(certificates / "first.key"))
        config = bounded_config(Starlette(routes=[Route("/", answer)]), keepalive_seconds=5)
        server = BoundedServer(config, places, certificate)
        listener = socket.create_server(("127.0.0.1", 0))
        port = listener.getsockname()[1]
        serving = asyncio.create_task(server.serve(sockets=[listener]))
        silent = [await asyncio.open_connection("127.0.0.1", port) for _ in range(most)]
        async with asyncio.timeout(20):
            while True:  # those that have said nothing for a second have to leave
                try:
                    if b"served" in await asked(port):
                        break
                except OSError:
                    await asyncio.sleep(0.05)
        assert places.connections <= most
        for _, writer in silent:
            writer.close()
        server.should_exit = True
        await serving

    asyncio.run(story())
