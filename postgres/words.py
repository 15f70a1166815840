"""What PostgreSQL says, in words for the person who has to do something about it.

Nothing here ever repeats a connection string: that may hold the password.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import psycopg

from config.errors import WattlineError
from postgres.fitness import UnfitError


@dataclass(frozen=True)
class _Refusal:
    """What libpq or the server says, our words for it, and whether it stays so until somebody changes something."""

    said: re.Pattern[str]
    meaning: str
    lasting: bool


# libpq gives a failed connection no SQLSTATE, so its text is all there is. The server's part is English only where
# its lc_messages is; in other languages the text is passed on as it is, and counts as passing. Of several addresses
# of one host the last speaks last, but the most telling one decides, so the lasting ones stand first.
_REFUSALS = tuple(
    _Refusal(re.compile(said), meaning, lasting)
    for said, meaning, lasting in (
        (
            r'password authentication failed for user "(.*?)"',
            'the password of user "{0}" is refused; check DATABASE_USERNAME and DATABASE_PASSWORD, or DATABASE_URL',
            True,
        ),
        (r"no password supplied", "a password is asked for; set DATABASE_PASSWORD, or put it into DATABASE_URL", True),
        (
            r'database "(.*?)" does not exist',
            'there is no database "{0}"; create it (createdb), or check DATABASE_NAME or DATABASE_URL',
            True,
        ),
        (r'role "(.*?)" does not exist', 'there is no user "{0}"; check DATABASE_USERNAME or DATABASE_URL', True),
        (
            r'permission denied for database "(.*?)"',
            'the user may not connect to database "{0}"; GRANT CONNECT ON DATABASE gives the right',
            True,
        ),
        (
            r"certificate verify failed",
            "its certificate is not by an authority of sslrootcert, or has expired; check sslrootcert in DATABASE_URL",
            True,
        ),
        (
            r'server certificate for "(.*?)".* does not match host name "(.*?)"',
            'its certificate is for "{0}", and we look for "{1}"; check the host in DATABASE_URL',
            True,
        ),
        (
            r'root certificate file "(.*?)" does not exist',
            'the file "{0}" of sslrootcert is not there; check DATABASE_URL',
            True,
        ),
        (r"server does not support SSL", "it offers no TLS, and sslmode asks for it; is it the right server?", True),
        (r"no pg_hba.conf entry for (.*)", "the server's pg_hba.conf lets nobody in as {0}", True),
        (r"Connection refused", "nothing listens there; is PostgreSQL running? Check DATABASE_HOST and _PORT", False),
        (r"failed to resolve host", "the host name is unknown; check DATABASE_HOST or DATABASE_URL", False),
        (r"timeout expired", "it does not answer in time", False),
        (r"the database system is (starting up|shutting down|in recovery mode)", "the server is {0}", False),
    )
)
_EXTENSION = re.compile(r'permission denied to create extension "(.*?)"')
_PREAMBLE = re.compile(r"^connection (?:failed|is bad): |connection to server .*? failed: |(?:FATAL|ERROR): +")


def explain(error: psycopg.Error, label: str) -> str:
    """One line for a person: what is wrong with the database at `label` (`host:port/name`), and what to do about it."""
    if isinstance(error, psycopg.errors.LockNotAvailable):
        what = "another session holds a lock that is needed for too long; pg_stat_activity shows whose"
    elif isinstance(error, psycopg.errors.InsufficientPrivilege) and (found := _EXTENSION.search(str(error))):
        what = f"{found[0]}; let an administrator run CREATE EXTENSION {found[1]} in this database once"
    elif isinstance(error, psycopg.errors.InsufficientPrivilege):
        what = f"{error.diag.message_primary}; grant it to the user of DATABASE_USERNAME, or be the tables' owner"
    elif isinstance(error, psycopg.errors.UndefinedTable | psycopg.errors.UndefinedColumn):
        what = f"{error.diag.message_primary}; run wattline migrate"
    elif isinstance(error, psycopg.errors.ReadOnlySqlTransaction):
        what = (
            f"{error.diag.message_primary}: it is a standby, or default_transaction_read_only is on for the database "
            "or the user (some providers set it when the disk is nearly full)"
        )
    elif refused := _refusal(error):
        refusal, match = refused
        what = refusal.meaning.format(*match.groups())
    else:
        first_line = error.diag.message_primary or (str(error).splitlines() or [type(error).__name__])[0]
        what = _PREAMBLE.sub("", first_line)
    return f"PostgreSQL at {label}: {' '.join(what.split())}"


@contextmanager
def in_words(label: str) -> Iterator[None]:
    """For a command: what psycopg raises inside becomes a WattlineError, in the words of `explain`."""
    try:
        yield
    except psycopg.Error as error:
        raise WattlineError(explain(error, label)) from None


def is_lasting(error: psycopg.Error) -> bool:
    """True if a failed connection will fail again until somebody changes a setting or the server."""
    found = _refusal(error)
    return isinstance(error, UnfitError) or (found is not None and found[0].lasting)


def _refusal(error: psycopg.Error) -> tuple[_Refusal, re.Match[str]] | None:
    if error.sqlstate is not None or not isinstance(error, psycopg.OperationalError):
        return None
    text = str(error)
    return next(((refusal, match) for refusal in _REFUSALS if (match := refusal.said.search(text))), None)
