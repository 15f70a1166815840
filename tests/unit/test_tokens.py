"""Tokens in the settings, as they are or hashed; how many wrong ones somebody may try; who that somebody is."""

from __future__ import annotations

import io
from ipaddress import ip_network
from typing import Any

import pytest

from analytics_api.http.clients import UNKNOWN, client_address, neighbourhood
from analytics_api.http.wrong_tokens import ATTEMPTS_MAX, CLIENTS_MAX, SECONDS_EACH, WrongTokens
from config.tokens import Token, digest_of, tokens
from wattline.cli import main

HASH = digest_of(b"s3cret").hex()
RIGHT, WRONG = digest_of(b"right"), digest_of(b"wrong")


def test_a_hash_counts_like_its_token_and_may_have_a_name() -> None:
    assert tokens(f"s3cret, sha256:{HASH},desk=sha256:{HASH}") == (
        Token(f"sha256:{HASH[:8]}", digest_of(b"s3cret")),
        Token(f"sha256:{HASH[:8]}", digest_of(b"s3cret")),
        Token("desk", digest_of(b"s3cret")),
    )
    assert tokens("a=b==")[0].digest == digest_of(b"a=b=="), "a token may look like a name and a value"


@pytest.mark.parametrize(
    "text",
    [
        f"sha256:{HASH[1:]}",
        f"SHA256:{HASH}",
        f"sha256:{HASH.upper()}",
        f"de sk=sha256:{HASH}",
        "sha256:",
        "x=sha256:s3c",
    ],
)
def test_a_hash_that_is_none_is_no_token_either(text: str) -> None:
    """Else a slip would make the hash, which others may read, the token."""
    with pytest.raises(ValueError, match="64 hexadecimal digits") as caught:
        tokens(text)
    assert "s3c" not in str(caught.value)


def test_the_command_makes_a_token_and_its_entry(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["token", "desk"]) == 0
    token, entry = (line.partition(" ")[2] for line in capsys.readouterr().out.splitlines())
    assert tokens(entry) == (Token("desk", digest_of(token.encode())),)
    assert main(["token"]) == 0
    assert token not in capsys.readouterr().out
    with pytest.raises(SystemExit):
        main(["token", "de,sk"])


def test_the_command_hashes_a_token_that_is_there(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sys.stdin", io.StringIO("s3cret\n"))
    assert main(["token", "--stdin"]) == 0
    assert capsys.readouterr().out == f"sha256:{HASH}\n"
    monkeypatch.setattr("sys.stdin", io.StringIO("two words\n"))
    assert main(["token", "--stdin"]) == 2


class Clock:
    now = 1000.0

    def __call__(self) -> float:
        return self.now


def test_who_guesses_is_slowed_down_and_nobody_else() -> None:
    clock = Clock()
    wrong = WrongTokens(clock)
    for _ in range(ATTEMPTS_MAX):
        assert wrong.seconds_to_wait("guesser", WRONG) == 0
        wrong.was_wrong("guesser")
    assert wrong.seconds_to_wait("guesser", WRONG) == SECONDS_EACH
    assert wrong.seconds_to_wait("guesser", RIGHT) == SECONDS_EACH, "not compared, whatever it is"
    assert wrong.seconds_to_wait("neighbour", RIGHT) == 0
    clock.now += SECONDS_EACH
    assert wrong.seconds_to_wait("guesser", WRONG) == 0
    wrong.was_wrong("guesser")
    assert wrong.seconds_to_wait("guesser", WRONG) == SECONDS_EACH, "one more, and no more"
    clock.now += ATTEMPTS_MAX * SECONDS_EACH
    for _ in range(ATTEMPTS_MAX):
        assert wrong.seconds_to_wait("guesser", WRONG) == 0
        wrong.was_wrong("guesser")
    assert wrong.seconds_to_wait("guesser", WRONG) > 0
    assert (wrong.wrong_total, wrong.limited_total) == (2 * ATTEMPTS_MAX + 1, 4)


def test_who_shares_an_address_with_a_guesser_goes_on() -> None:
    wrong = WrongTokens(Clock())
    wrong.was_right("office", RIGHT)
    for _ in range(ATTEMPTS_MAX):
        wrong.was_wrong("office")
    assert wrong.seconds_to_wait("office", RIGHT) == 0
    assert wrong.seconds_to_wait("office", WRONG) > 0


def test_its_memory_is_bounded() -> None:
    wrong = WrongTokens(Clock())
    for number in range(CLIENTS_MAX + 10):
        wrong.was_wrong(f"client {number}")
        wrong.was_right(f"client {number}", RIGHT)
    assert len(wrong._empty_at) == len(wrong._right) == CLIENTS_MAX
    assert "client 0" not in wrong._empty_at


PROXIES = (ip_network("10.0.0.0/8"), ip_network("::1/128"))


@pytest.mark.parametrize(
    ("peer", "forwarded", "expected"),
    [
        ("192.0.2.7", [], "192.0.2.7"),
        ("192.0.2.7", ["203.0.113.9"], "192.0.2.7"),  # anybody may send it
        ("10.0.0.1", ["203.0.113.9"], "203.0.113.9"),
        ("10.0.0.1", ["1.1.1.1, 203.0.113.9"], "203.0.113.9"),  # the left end is the client's own invention
        ("10.0.0.1", ["203.0.113.9, 10.2.2.2"], "203.0.113.9"),
        ("10.0.0.1", ["1.1.1.1", "203.0.113.9, 10.2.2.2"], "203.0.113.9"),
        ("10.0.0.1", ["1.1.1.1, nonsense, 10.2.2.2"], "10.2.2.2"),
        ("10.0.0.1", ["10.3.3.3"], "10.3.3.3"),
        ("10.0.0.1", [], "10.0.0.1"),
        ("::ffff:10.0.0.1", ["[2001:db8::9]:443"], "2001:db8::9"),
        ("::1", ["203.0.113.9:5000"], "203.0.113.9"),
        ("fe80::1%eth0", [], "fe80::1"),
    ],
)
def test_who_asks_is_who_is_connected_or_whom_a_trusted_proxy_names(
    peer: str, forwarded: list[str], expected: str
) -> None:
    headers = [(b"x-forwarded-for", each.encode()) for each in forwarded]
    scope: dict[str, Any] = {"client": (peer, 1), "headers": headers}
    assert client_address(scope, PROXIES) == expected
    assert client_address({"client": None, "headers": headers}, PROXIES) == UNKNOWN


def test_all_addresses_of_a_customer_are_one_client() -> None:
    assert neighbourhood("2001:db8:1:2:3:4:5:6") == neighbourhood("2001:db8:1:2::1") == "2001:db8:1:2::/64"
    assert neighbourhood("2001:db8:1:3::1") != "2001:db8:1:2::/64"
    assert neighbourhood("192.0.2.7") == "192.0.2.7"
    assert neighbourhood(UNKNOWN) == UNKNOWN
