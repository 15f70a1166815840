"""What the pages name is there: files, places in other pages, settings, constants, metrics."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from config.settings import Settings
from telemetry.kinds import KINDS

ROOT = Path(__file__).parents[2]
PAGES = [*ROOT.glob("*.md"), *ROOT.glob("docs/**/*.md")]
MADE_BY_US = (ROOT / ".gitignore").read_text("utf-8").splitlines()
FILES = [file for folder in ROOT.glob("[!.]*") for file in (folder, *folder.rglob("*"))]
PROGRAM = "\n".join(
    file.read_text("utf-8") for file in FILES if file.suffix == ".py" or file.parent == ROOT / "tests" / "machines"
)
SETTINGS = {name.upper() for name in Settings.model_fields} | {kind.max_kwh_setting for kind in KINDS}
PATH = re.compile(r"`((?:[a-z_]+/)*[a-z_0-9]+\.(?:py|md|sql|toml|conf)|(?:[a-z_]+/)+)`")
LINK = re.compile(r"\]\((?!http)([^)#\s]*)#?([^)]*)\)")
NAME = re.compile(r"`([A-Z]+(?:_[A-Z]+)+)`")
METRIC = re.compile(r"\bwattline_[a-z_]+")


def anchors(page: Path) -> set[str]:
    """As GitHub makes them from headings."""
    headings = re.findall(r"^#+ (.*)$", page.read_text("utf-8"), re.MULTILINE)
    return {re.sub(r"[^\w -]", "", heading.lower()).replace(" ", "-") for heading in headings}


def is_there(path: str) -> bool:
    """A file or folder of the tree, named from its root or from the room that the page speaks of."""
    return path in MADE_BY_US or any(file.as_posix().endswith(f"/{path.rstrip('/')}") for file in FILES)


def leads_somewhere(page: Path, path: str, anchor: str) -> bool:
    there = (page.parent / path) if path else page
    return there.exists() and (not anchor or anchor in anchors(there))


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_what_a_page_names_is_there(page: Path) -> None:
    text = page.read_text("utf-8")
    missing = [path for path in PATH.findall(text) if not is_there(path)]
    missing += [f"{path}#{anchor}" for path, anchor in LINK.findall(text) if not leads_somewhere(page, path, anchor)]
    missing += [name for name in NAME.findall(text) if name not in SETTINGS and not re.search(rf"\b{name}\b", PROGRAM)]
    missing += [name for name in METRIC.findall(text) if name.removesuffix("_total") not in PROGRAM]
    assert missing == []
