"""A PgBouncer before a test's PostgreSQL: from PATH, or unpacked from Debian's package; else the test is skipped."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import psycopg
import pytest
from psycopg.conninfo import conninfo_to_dict, make_conninfo

from embedded import debian
from embedded.account import account_for, write_for
from embedded.cache import cached
from embedded.errors import EmbeddedError
from embedded.ports import LOOPBACK, free_ports
from processes.child import Account, Child, Program, last_lines
from tests.waiting import wait_until


def _program(account: Account | None) -> tuple[Path, dict[str, str]]:
    if found := shutil.which("pgbouncer", path=os.pathsep.join((os.environ.get("PATH", os.defpath), "/usr/sbin"))):
        return Path(found), {}
    if not debian.available():
        pytest.skip("PgBouncer is not on PATH, and this system has no apt-get to fetch it with")
    try:
        root = cached("pgbouncer", account, lambda draft: debian.unpack("pgbouncer", draft))
    except EmbeddedError as error:
        pytest.skip(f"PgBouncer is not on PATH and could not be fetched: {error}")
    libraries = [str(folder) for part in ("usr/lib", "lib") for folder in sorted((root / part).glob("*/"))]
    return root / "usr" / "sbin" / "pgbouncer", {"LD_LIBRARY_PATH": os.pathsep.join(libraries)}


@contextmanager
def pgbouncer(
    folder: Path, url: str, mode: str, more: str = "", files: Mapping[str, str] | None = None
) -> Iterator[str]:
    """A pooler in this mode, and with `more` settings, before the database at `url`; the same URL through it.

    `files`: what those settings name, by its name.
    """
    account = account_for(folder / "none")  # it refuses to run as root, too
    program, environment = _program(account)
    folder.mkdir(parents=True)
    if account is not None:
        os.chown(folder, account.uid, account.gid)
    server = conninfo_to_dict(url)
    (port,) = free_ports(1)
    passwords = {"user": server["user"], "password": _password(url)}
    for name, text in (files or {}).items():
        write_for(account, folder / name, text)
    write_for(account, folder / "users", '"{user}" "{password}"\n'.format(**passwords))
    write_for(
        account,
        folder / "pgbouncer.ini",
        f"""
[databases]
* = host={server["host"]} port={server["port"]}
[pgbouncer]
listen_addr = {LOOPBACK}
listen_port = {port}
unix_socket_dir =
auth_type = scram-sha-256
auth_file = users
pool_mode = {mode}
default_pool_size = 20
{more}
""",
    )
    child = Child(
        Program(
            name="pgbouncer",
            command=(str(program), "pgbouncer.ini"),  # it may not see the folders above
            directory=folder,
            log=folder.parent / f"pgbouncer-{mode}.log",
            environment=environment,
            account=account,
        )
    )
    through = make_conninfo(url, host=LOOPBACK, port=port, password=passwords["password"], passfile="/nonexistent")
    child.start()
    try:
        wait_until(lambda: _answers(through) or not child.running, what="PgBouncer")
        assert child.running, last_lines(child.program.log, 20)
        yield through
    finally:
        child.kill()


def _password(url: str) -> str:
    """What the server asks for; PgBouncer wants it in clear."""
    with psycopg.connect(url) as connection:
        return connection.info.password or connection.pgconn.password.decode()


def _answers(url: str) -> bool:
    try:
        psycopg.connect(url, connect_timeout=2).close()
    except psycopg.OperationalError:
        return False
    return True
