"""Other people's files that we carry are what they were when somebody looked at them."""

from __future__ import annotations

import hashlib
from pathlib import Path

VENDOR = Path(__file__).parents[2] / "analytics_api" / "web" / "vendor"


def test_every_vendored_file_has_its_hash() -> None:
    for folder in VENDOR.iterdir():
        lines = (folder / "SHA256SUMS").read_text(encoding="ascii").splitlines()
        listed = {line[66:]: line[:64] for line in lines}
        found = {
            path.name: hashlib.sha256(path.read_bytes()).hexdigest()
            for path in folder.iterdir()
            if path.name not in ("README.md", "SHA256SUMS")
        }
        assert found == listed
