"""What is about one kind of reading names none of them: it is made from the declarations, for every kind."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

import analytics_api

API = Path(analytics_api.__file__).parent
ABOUT_ONE_KIND = [
    path
    for pattern in ("http/*.py", "database/*.py", "readings/*.py", "live/stream.py", "description/*.py")
    for path in sorted(API.glob(pattern))
    # Pairs of a vehicle and its meter are named as such, and the operations end with theirs.
    if path.name not in ("pair_schemas.py", "operations.py", "openapi.py")
]
A_KIND = re.compile(r"(?<!para)(?<!Para)(meter|vehicle)", re.IGNORECASE)


@pytest.mark.parametrize("path", ABOUT_ONE_KIND, ids=lambda path: str(path.relative_to(API)))
def test_no_kind_is_named(path: Path) -> None:
    assert [line for line in path.read_text(encoding="utf-8").splitlines() if A_KIND.search(line)] == []
