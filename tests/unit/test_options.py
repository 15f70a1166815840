"""What a connection is told of the settings: address, names, limits, trust."""

from __future__ import annotations

import ssl
from pathlib import Path
from typing import Any

import pytest

from config.errors import SettingsError
from config.settings import load_settings
from embedded.mosquitto import RULES
from mqtt.options import PACKET_BYTES_MAX, RECEIVE_MAXIMUM_MAX, LinkOptions


@pytest.fixture(autouse=True)
def elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where no `.env` of a developer is."""
    monkeypatch.chdir(tmp_path)


def options(url: str, **settings: Any) -> LinkOptions:
    return LinkOptions.from_settings(load_settings(mqtt_url=url, **settings), client_id="me")


def test_everything_is_handed_on() -> None:
    given = LinkOptions.from_settings(
        load_settings(mqtt_url="mqtt://ann:x@broker.example:1999"),
        client_id="ingestor-1",
        clean_start=False,
        session_expiry_seconds=3600,
        receive_maximum=1000,
    )
    assert (given.broker.host, given.broker.port, given.broker.username) == ("broker.example", 1999, "ann")
    assert (given.client_id, given.clean_start, given.session_expiry_seconds) == ("ingestor-1", False, 3600)
    assert given.receive_maximum == 1000
    assert given.tls is None
    assert "x@" not in repr(given)


def test_who_names_nothing_leaves_nothing_behind_at_the_broker() -> None:
    given = options("mqtt://broker.example")
    assert given.clean_start
    assert given.session_expiry_seconds == 0


def test_tls_trusts_the_systems_authorities_and_checks_the_name() -> None:
    tls = options("mqtts://broker.example").tls
    assert tls is not None
    context = tls.context()
    assert context.verify_mode == ssl.CERT_REQUIRED
    assert context.check_hostname
    assert context.minimum_version >= ssl.TLSVersion.TLSv1_2


@pytest.mark.parametrize(
    ("system", "used"),
    [("MINIMUM_SUPPORTED", "TLSv1_2"), ("TLSv1", "TLSv1_2"), ("TLSv1_2", "TLSv1_2"), ("TLSv1_3", "TLSv1_3")],
)
@pytest.mark.filterwarnings("ignore:ssl.TLSVersion.TLSv1 is deprecated")
def test_tls_is_never_older_than_1_2_whatever_the_system_allows(
    monkeypatch: pytest.MonkeyPatch, system: str, used: str
) -> None:
    context = ssl.create_default_context()
    context.minimum_version = ssl.TLSVersion[system]
    monkeypatch.setattr(ssl, "create_default_context", lambda cafile: context)
    tls = options("mqtts://broker.example").tls
    assert tls is not None
    assert tls.context() is context
    assert context.minimum_version == ssl.TLSVersion[used]


@pytest.mark.parametrize("ca", [None, "of our own"])
def test_an_authority_of_our_own_is_held_to_the_same_rules_by_every_python(
    monkeypatch: pytest.MonkeyPatch, ca: str | None
) -> None:
    """From 3.13 on Python is strict about extensions that private authorities often lack."""
    context = ssl.create_default_context()
    context.verify_flags |= ssl.VERIFY_X509_STRICT
    monkeypatch.setattr(ssl, "create_default_context", lambda cafile: context)
    tls = options("mqtts://broker.example", mqtt_tls_ca=ca).tls
    assert tls is not None
    assert bool(tls.context().verify_flags & ssl.VERIFY_X509_STRICT) == (ca is None)


@pytest.mark.parametrize("content", [None, "", "no certificate"])
def test_an_authority_that_cannot_be_read_is_a_settings_error(tmp_path: Path, content: str | None) -> None:
    path = tmp_path / "ca.pem"
    if content is not None:
        path.write_text(content)
    with pytest.raises(SettingsError, match=r"^MQTT_TLS_CA: cannot use ") as raised:
        options("mqtts://broker.example", mqtt_tls_ca=str(path))
    assert str(path) in str(raised.value)


def test_the_broker_knows_a_window() -> None:
    """Mosquitto takes 65535 for "no limit", and the codec leaves out a Receive Maximum of that size."""
    rules = dict(line.split() for line in RULES.read_text().splitlines() if line.startswith("max_"))
    assert 0 < int(rules["max_inflight_messages"]) < 65535
    assert options("mqtt://broker.example").receive_maximum == RECEIVE_MAXIMUM_MAX < 65535


def test_what_our_broker_lets_in_also_reaches_us() -> None:
    """A broker discards what is larger than its subscriber takes, although it has acknowledged it to the publisher."""
    rules = dict(line.split() for line in RULES.read_text().splitlines() if line.startswith("max_"))
    topic_bytes_max = 65535
    assert int(rules["max_packet_size"]) + topic_bytes_max <= PACKET_BYTES_MAX
