"""Who imports whom: data runs one way through the rooms, and no room knows of one beside it."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
BASE = {"config"}
SHARED = BASE | {"telemetry", "mqtt", "postgres"}
MAY_IMPORT = {
    "config": set[str](),
    "telemetry": BASE,
    "mqtt": BASE,
    "postgres": BASE,
    "ingestor": SHARED,
    "analytics_api": SHARED,
    "loadgen": SHARED,
}
# These put the others together, and nothing may build on them.
ABOVE = {"embedded", "wattline", "benchmarks", "tests"}


def imported(path: Path) -> Iterator[str]:
    """The modules that a file imports, anywhere in it, as they are written."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            yield node.module if node.level == 0 and node.module else "relative"


@pytest.mark.parametrize("room", MAY_IMPORT)
def test_a_room_imports_only_what_is_below_it(room: str) -> None:
    forbidden = (set(MAY_IMPORT) | ABOVE | {"relative"}) - MAY_IMPORT[room] - {room}
    files = list((ROOT / room).rglob("*.py"))
    assert files
    wrong = [
        f"{file.relative_to(ROOT)} imports {name}"
        for file in files
        for name in imported(file)
        if name.split(".")[0] in forbidden
    ]
    assert wrong == []
