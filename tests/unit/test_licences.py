"""What is shipped, with its licences; as a table and as CycloneDX."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

from wattline.cli import main
from wattline.shipped import components

ROOT = Path(__file__).parents[2]
VENDORED = ROOT / "analytics_api" / "web" / "vendor" / "swagger-ui" / "README.md"
# What only builds the package, and what only other systems need.
NOT_SHIPPED = {"editables", "hatchling", "packaging", "pathspec", "pluggy", "tomlkit", "trove-classifiers", "tzdata"}


def test_everything_that_is_locked_is_listed_with_its_licence() -> None:
    found = {each.name: each for each in components()}
    locked = dict(re.findall(r"^([a-z0-9-]+)==([^ ;\\]+)", (ROOT / "locks" / "runtime.txt").read_text(), re.MULTILINE))
    assert locked.keys() - NOT_SHIPPED <= found.keys()
    assert found.keys() - locked.keys() == {"wattline", "swagger-ui-dist", "postgresql"}
    assert [each.name for each in found.values() if each.licence == "unknown"] == []
    assert f"version {found['swagger-ui-dist'].version}," in VENDORED.read_text()
    assert "pq" in found["psycopg-binary"].bundled


def test_the_table_and_the_bill(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["licences"]) == 0
    assert re.search(r"^psycopg 3\S+ +LGPL-3.0-only$", capsys.readouterr().out, re.MULTILINE)
    assert main(["licences", "--sbom"]) == 0
    bill = json.loads(capsys.readouterr().out)
    assert (bill["bomFormat"], bill["specVersion"]) == ("CycloneDX", "1.6")
    assert bill["metadata"]["component"]["name"] == "wattline"
    refs = {bill["metadata"]["component"]["bom-ref"], *(each["bom-ref"] for each in bill["components"])}
    assert len(refs) == len(bill["components"]) + 1
    assert {each["ref"] for each in bill["dependencies"]} == refs
    assert {needed for each in bill["dependencies"] for needed in each["dependsOn"]} <= refs
    starlette = next(each for each in bill["components"] if each["name"] == "starlette")
    assert starlette["licenses"] == [{"expression": "BSD-3-Clause"}]
