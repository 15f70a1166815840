"""Which wattline this is."""

from __future__ import annotations

from functools import cache
from importlib.metadata import version


@cache
def wattline_version() -> str:
    """As pyproject.toml says it, "0.1.0"."""
    return version("wattline")
