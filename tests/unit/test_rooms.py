"""Which room may import which: the table of docs/architecture.md, held against every import statement."""

from __future__ import annotations

import ast
import tomllib
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
SHARED = {"config", "telemetry", "mqtt", "postgres", "serving", "ledger", "processes"}
MAY_IMPORT = {
    "config": set(),
    "telemetry": {"config"},
    "mqtt": {"config"},
    "postgres": {"config"},
    "serving": {"config"},
    "processes": {"config"},
    "ledger": {"config", "telemetry", "postgres"},
    "ingestor": SHARED,
    "analytics_api": SHARED,
    "access": {"config", "telemetry"},
    "loadgen": SHARED | {"access"},
    "embedded": {"config", "processes", "telemetry", "access", "loadgen"},
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


def test_every_room_is_packed_checked_and_described() -> None:
    rooms = {folder.parent.name for folder in ROOT.glob("*/__init__.py")} - {"tests", "benchmarks"}
    assert rooms == MAY_IMPORT.keys() | {"wattline"}
    tools = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["tool"]
    assert set(tools["hatch"]["build"]["targets"]["wheel"]["packages"]) == rooms
    assert set(tools["mypy"]["packages"]) == rooms | {"tests", "benchmarks"}
    assert set(tools["coverage"]["run"]["source_pkgs"]) == rooms
    lines = (("Dockerfile", "COPY {0} {0}\n"), (".dockerignore", "!{0}\n"), ("docs/architecture.md", "| `{0}/` |"))
    for file, line in lines:
        text = (ROOT / file).read_text("utf-8")
        assert [room for room in rooms if line.format(room) not in text] == [], file
