"""API_READ_TOKENS and API_WRITE_TOKENS, taken apart: what is compared with a token that a client sends, and its name.

    dashboard=sha256:HEX,sha256:HEX,TOKEN

Where only the hash is written, whoever reads the settings cannot use it. Of a token as it is only the hash is kept in
memory, too. A hash suffices because `wattline token` makes tokens that nobody can guess; SHA-256 does not slow down who
guesses words.
"""

from __future__ import annotations

import hashlib
import re
import secrets
from dataclasses import dataclass

PREFIX = "sha256:"
NAME_RULE = "up to 40 letters, digits and . _ -"
NAME = re.compile(r"[A-Za-z0-9._-]{1,40}")

_HASHED = re.compile(r"(?:(?P<name>[A-Za-z0-9._-]{1,40})=)?sha256:(?P<digest>[0-9a-f]{64})")
_MEANT_HASHED = re.compile(r"([^=]*=)?sha256:", re.IGNORECASE)
_PLAIN = re.compile(r"[!-+\--~]+")  # visible ASCII but the comma
_EXPECTED = "expected tokens of visible ASCII characters without spaces, separated by commas"
_DIGITS_SHOWN = 8
_RANDOM_BYTES = 32


@dataclass(frozen=True)
class Token:
    """A token that counts."""

    name: str
    """For logs: the one that was given, or the start of the hash."""
    digest: bytes


def digest_of(token: bytes) -> bytes:
    """SHA-256."""
    return hashlib.sha256(token).digest()


def new_token() -> str:
    """One that nobody guesses: 256 random bits, and a prefix by which scanners find it where it does not belong."""
    return f"wattline_{secrets.token_urlsafe(_RANDOM_BYTES)}"


def entry_of(token: str, name: str | None) -> str:
    """What a setting lists for it: nobody can use it as a token."""
    hashed = f"{PREFIX}{digest_of(token.encode()).hex()}"
    return hashed if name is None else f"{name}={hashed}"


def is_token(text: str) -> bool:
    """Whether a client can send it, and a setting list it."""
    return _PLAIN.fullmatch(text) is not None


def tokens(text: str) -> tuple[Token, ...]:
    """Raises ValueError, with a message that repeats nothing of them."""
    return tuple(_token(part.strip()) for part in text.split(","))


def _token(part: str) -> Token:
    if match := _HASHED.fullmatch(part):
        digest = bytes.fromhex(match["digest"])
        return Token(match["name"] or _shown(digest), digest)
    if _MEANT_HASHED.match(part):
        raise ValueError(
            f"expected NAME=sha256: and 64 hexadecimal digits, as `wattline token` writes it ({NAME_RULE})"
        )
    if not is_token(part):
        raise ValueError(_EXPECTED)
    digest = digest_of(part.encode())
    return Token(_shown(digest), digest)


def _shown(digest: bytes) -> str:
    return f"{PREFIX}{digest.hex()[:_DIGITS_SHOWN]}"
