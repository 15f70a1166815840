"""Programs from Debian's or Ubuntu's packages, unpacked into a folder of ours, root or not.

It never installs anything: `apt-get install` would start a second broker on port 1883 as a service of the system. apt
still decides what belongs together and checks every signature; only the packages that the system lacks are fetched.
"""

from __future__ import annotations

import shutil
import subprocess
import tempfile
from collections.abc import Sequence
from pathlib import Path

from embedded.errors import EmbeddedError

TIMEOUT_SECONDS = 120.0  # for one call of apt; a mirror that does not answer must not hold `up` for ever
NETWORK = ("-oAcquire::http::Timeout=15", "-oAcquire::https::Timeout=15", "-oAcquire::Retries=1")


def available() -> bool:
    """Whether this system has Debian's tools."""
    return all(shutil.which(tool) for tool in ("apt-get", "dpkg-deb"))


def unpack(package: str, target: Path, also: Sequence[str] = ()) -> None:
    """Fetch a package and the libraries that are missing here; unpack them into `target`. Raises EmbeddedError.

    `also`: packages that it needs besides libraries, where this release of the system has them.
    """
    with tempfile.TemporaryDirectory() as scratch:
        try:
            packages = _download(package, also, Path(scratch) / "packages", options=())
        except EmbeddedError:  # no package lists here, or too old ones: lists of our own need no root
            packages = _download(package, also, Path(scratch) / "again", options=_own_lists(Path(scratch) / "lists"))
        for file in packages:
            _run(["dpkg-deb", "--extract", str(file), str(target)], file.parent)


def _own_lists(folder: Path) -> Sequence[str]:
    """Fetch apt's package lists into `folder`; the options that make apt use them."""
    for part in ("state/partial", "cache/archives/partial"):
        (folder / part).mkdir(parents=True)
    options = (f"-oDir::State::lists={folder / 'state'}", f"-oDir::Cache={folder / 'cache'}")
    _run(["apt-get", "update", *options, *NETWORK, "-oAcquire::Languages=none"], folder)
    return options


def _download(package: str, also: Sequence[str], folder: Path, options: Sequence[str]) -> list[Path]:
    """The package files that `apt-get install` would add, as far as a program needs them: itself and libraries."""
    folder.mkdir()
    plan = _run(["apt-get", "install", "--simulate", "--no-install-recommends", *options, package], folder)
    additions = [line.split()[1] for line in plan.splitlines() if line.startswith("Inst ")]
    libraries = [name for name in additions if name.startswith("lib") and not name.startswith("libjs-")]
    wanted = [*libraries, *(name for name in additions if name.startswith(package) or name in also)]
    _run(["apt-get", "download", *options, *NETWORK, *wanted], folder)
    return sorted(folder.glob("*.deb"))


def _run(command: Sequence[str], folder: Path) -> str:
    try:
        result = subprocess.run(
            command, cwd=folder, capture_output=True, text=True, check=False, timeout=TIMEOUT_SECONDS
        )
    except subprocess.TimeoutExpired:
        raise EmbeddedError(f"`{' '.join(command[:2])}` took longer than {TIMEOUT_SECONDS:.0f} s") from None
    if result.returncode != 0:
        said = (result.stderr.strip().splitlines() or ["no message"])[-1]
        raise EmbeddedError(f"`{' '.join(command[:2])}` failed: {said}")
    return result.stdout
