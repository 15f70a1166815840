"""Secrets, and the lines of Mosquitto's password file."""

from __future__ import annotations

import base64
import hashlib
import os
import secrets

# A secret of ours has 192 random bits: nobody guesses it, however fast a guess is. What counts is that Mosquitto checks
# the passwords of all connected clients again whenever it reads the file, and does nothing else meanwhile: with
# mosquitto_passwd's 101 rounds half a second for 10,000 clients, with 1,000 rounds five.
ROUNDS = 101
SECRET_BYTES = 24
SALT_BYTES = 12
# What somebody brings along is not random; the broker's answer to a guess is its only protection.
LENGTH_MIN, LENGTH_MAX = 12, 200


def new_secret() -> str:
    """32 characters that a URL, a CSV file and a shell take as they are."""
    return secrets.token_urlsafe(SECRET_BYTES)


def password_line(account: str, secret: str) -> str:
    """As mosquitto_passwd writes it: PBKDF2 with SHA-512. 0.1 ms."""
    salt = os.urandom(SALT_BYTES)
    digest = hashlib.pbkdf2_hmac("sha512", secret.encode(), salt, ROUNDS)
    return f"{account}:$7${ROUNDS}${base64.b64encode(salt).decode()}${base64.b64encode(digest).decode()}"


def is_password_of(line: str, secret: str) -> bool:
    """Whether a line of the file was made of this secret."""
    _, _, rounds, salt, digest = line.split("$")
    made = hashlib.pbkdf2_hmac("sha512", secret.encode(), base64.b64decode(salt), int(rounds))
    return secrets.compare_digest(made, base64.b64decode(digest))
