"""Where programs lie that had to be fetched or copied: outside the data, so that a new data folder needs no new copy.

The virtual environment comes first: it already holds the other programs, and goes when the project goes. It never
uses a folder that the servers' account cannot read.
"""

from __future__ import annotations

import os
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

from embedded.account import can_read
from embedded.errors import EmbeddedError
from processes.child import Account


def cached(name: str, account: Account | None, make: Callable[[Path], None]) -> Path:
    """The folder `name` that `account` can read; `make` fills it, complete or not at all, where there is none.

    Raises EmbeddedError where it can be written nowhere, and whatever `make` raises.
    """
    places = _places()
    for place in places:
        if (place / name).is_dir() and can_read(place / name, account):
            return place / name
    place = _writable(places, account)
    with tempfile.TemporaryDirectory(dir=place, prefix="making-") as scratch:
        draft = Path(scratch) / name
        draft.mkdir()
        draft.chmod(0o755)
        make(draft)
        if not (place / name).exists():  # somebody else was quicker
            draft.rename(place / name)
    return place / name


def _places() -> list[Path]:
    """Best first."""
    if os.geteuid() == 0:  # root's home is closed to the account that runs the servers
        cache = Path("/var/cache")
    else:
        cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    environment = [Path(sys.prefix) / "share"] if sys.prefix != sys.base_prefix else []
    return [folder / "wattline" for folder in (*environment, cache)]


def _writable(places: list[Path], account: Account | None) -> Path:
    for place in places:
        try:
            place.mkdir(mode=0o755, parents=True, exist_ok=True)
        except OSError:
            continue
        if os.access(place, os.W_OK) and can_read(place, account):
            return place
    raise EmbeddedError(f"no folder to keep programs in: cannot write {' or '.join(map(str, places))}")
