"""Which room may import which: the table of docs/architecture.md, held against every import statement."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
SHARED = {"config", "telemetry", "mqtt", "postgres", "serving", "ledger"}
MAY_IMPORT = {
    "config": set(),
    "telemetry": {"config"},
    "mqtt": {"config"},
    "postgres": {"config"},
    "serving": {"config"},
    "ledger": {"config", "telemetry", "postgres"},
    "ingestor": SHARED,
    "analytics_api": SHARED,
    "loadgen": SHARED,
    "embedded": {"config"},
}


def imported(file: Path) -> Iterator[str]:
    """The first names of all modules that a file imports, wherever in it."""
    for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from (alias.name.partition(".")[0] for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            yield node.module.partition(".")[0]


@pytest.mark.parametrize("room", MAY_IMPORT)
def test_a_room_imports_only_what_it_may(room: str) -> None:
    forbidden = (MAY_IMPORT.keys() | {"wattline", "tests", "benchmarks"}) - MAY_IMPORT[room] - {room}
    files = sorted((ROOT / room).rglob("*.py"))
    assert files
    found = {
        f"{file.relative_to(ROOT)} imports {name}" for file in files for name in imported(file) if name in forbidden
    }
    assert found == set()


def test_every_session_is_opened_by_the_room_postgres() -> None:
    """So that each one sets what we rely on; embedded/ looks after a server of its own, before there is any table."""
    rooms = MAY_IMPORT.keys() - {"postgres", "embedded"}
    files = [file for room in rooms for file in (ROOT / room).rglob("*.py")]
    found = [
        f"{file.relative_to(ROOT)}: {call}"
        for file in files
        for call in ("psycopg.connect(", "psycopg.AsyncConnection.connect(", " AsyncConnection.connect(")
        if call in file.read_text(encoding="utf-8")
    ]
    assert found == []
