"""Every SQL template, rendered for each kind as it runs; `./dev test tests/unit/test_sql_of_kinds.py -s` prints all."""

from __future__ import annotations

import pkgutil
import re
from collections.abc import Iterator
from importlib import import_module
from typing import LiteralString

import pytest

from telemetry.kinds import KINDS, SQL_NAMES, Kind, SqlByKind
from tests.inverter import INVERTER

ROOMS = ("analytics_api", "ingestor", "ledger", "loadgen")
A_NAME = re.compile("{(" + "|".join(SQL_NAMES) + ")}")


def templates() -> Iterator[tuple[str, LiteralString]]:
    """(where it stands, its text) of every template."""
    for room in ROOMS:
        for found in pkgutil.walk_packages(import_module(room).__path__, f"{room}."):
            for name, value in vars(import_module(found.name)).items():
                text = value.template if isinstance(value, SqlByKind) else value
                if isinstance(text, str) and name != "__doc__" and A_NAME.search(text):
                    yield f"{found.name}.{name}", text


TEMPLATES = dict(templates())


@pytest.mark.parametrize("kind", [*KINDS, INVERTER], ids=lambda kind: kind.name)
@pytest.mark.parametrize("where", TEMPLATES)
def test_each_is_rendered_whole(where: str, kind: Kind) -> None:
    rendered = kind.sql(TEMPLATES[where]).decode()
    print(f"\n-- {where}, {kind.name}", rendered.strip("\n"), sep="\n")  # noqa: T201 - for the one who asks
    assert "{" not in rendered
    assert kind.name in rendered


def test_all_rooms_have_some() -> None:
    assert {where.partition(".")[0] for where in TEMPLATES} == set(ROOMS)
