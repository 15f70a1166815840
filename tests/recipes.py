"""The blocks of docs/recipes.md, for the tests that try them."""

from __future__ import annotations

import re
from pathlib import Path

ROOT = Path(__file__).parents[1]
RECIPES = (ROOT / "docs" / "recipes.md").read_text(encoding="utf-8")


def block(language: str) -> str:
    """The first block in that language: "python" is the declaration of a kind, "sql" its migration."""
    found = re.search(rf"^```{language}\n(.*?)^```", RECIPES, re.MULTILINE | re.DOTALL)
    assert found is not None
    return found[1]
