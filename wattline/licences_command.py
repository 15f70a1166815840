"""`wattline licences`: what is shipped and under which licence; as a table, or as a bill of materials (CycloneDX)."""

from __future__ import annotations

import argparse
import json
import uuid
from datetime import UTC, datetime
from typing import Any

from config.output import say
from wattline.shipped import Component, components


def configure(parser: argparse.ArgumentParser) -> None:
    """The options of `wattline licences`."""
    parser.add_argument(
        "--sbom", action="store_true", help="as a software bill of materials: CycloneDX 1.6, JSON (`./dev sbom`)"
    )


def run(args: argparse.Namespace) -> int:
    """Print it."""
    found = components()
    if args.sbom:
        say([json.dumps(bill(found, datetime.now(UTC)), indent=2)])
        return 0
    width = max(len(each.name) + len(each.version) for each in found) + 1
    say(
        f"{f'{each.name} {each.version}':<{width}}  {each.licence}"
        + (f"  (with {', '.join(each.bundled)})" if each.bundled else "")
        for each in found
    )
    return 0


def bill(found: list[Component], now: datetime) -> dict[str, Any]:
    """CycloneDX 1.6; the first component is the one that it is about."""
    ours, others = found[0], found[1:]
    return {
        "$schema": "http://cyclonedx.org/schema/bom-1.6.schema.json",
        "bomFormat": "CycloneDX",
        "specVersion": "1.6",
        "serialNumber": f"urn:uuid:{uuid.uuid4()}",
        "version": 1,
        "metadata": {
            "timestamp": now.isoformat(timespec="seconds").replace("+00:00", "Z"),
            "component": _described(ours, "application"),
        },
        "components": [_described(each, "library") for each in others],
        "dependencies": [{"ref": each.purl, "dependsOn": list(each.needs)} for each in found],
    }


def _described(component: Component, kind: str) -> dict[str, Any]:
    licence = {"expression": component.licence} if component.is_expression else {"license": {"name": component.licence}}
    described: dict[str, Any] = {
        "type": kind,
        "bom-ref": component.purl,
        "name": component.name,
        "version": component.version,
        "purl": component.purl,
        "licenses": [licence],
    }
    if component.bundled:
        described["properties"] = [{"name": "wattline:bundled", "value": each} for each in component.bundled]
    return described
