"""docker-compose.yml names whole versions, so that a broker does not change by itself."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from tests.containers import MOSQUITTO_IMAGE
from wattline.cli import main

COMPOSE = Path(__file__).parents[2] / "docker-compose.yml"
PRODUCTION = COMPOSE.with_name("docker-compose.production.yml")


def test_the_brokers_version_is_pinned_and_the_one_that_the_tests_use() -> None:
    images = re.findall(r"^    image: (eclipse-mosquitto:\S+)$", COMPOSE.read_text(encoding="utf-8"), re.MULTILINE)
    assert images == [MOSQUITTO_IMAGE]
    assert re.fullmatch(r"eclipse-mosquitto:\d+\.\d+\.\d+(-alpine)?", MOSQUITTO_IMAGE)


def test_no_secret_has_a_default_and_none_stands_in_a_file() -> None:
    """Each is `${NAME}` from .env; those that must be there say so when they are not."""
    for file in (COMPOSE, PRODUCTION):
        text = file.read_text(encoding="utf-8")
        assert re.findall(r"\$\{\w*(?:PASSWORD|SECRET|TOKENS)\w*:?-[^}]*\}", text) == []
        assert re.findall(r"://[^:@$\s]+:(?!\$\{)[^@\s]+@", text) == []
    assert "${DATABASE_PASSWORD:?" in COMPOSE.read_text(encoding="utf-8")


def test_every_container_of_production_has_no_capabilities_and_cannot_be_written_to() -> None:
    text = PRODUCTION.read_text(encoding="utf-8")
    for service in ("mosquitto", "retention", "devices"):  # the others have it from docker-compose.yml
        part = text.partition(f"\n  {service}:\n")[2].partition("\n\n")[0]
        assert "read_only: true" in part, service
        assert "cap_drop: [ALL]" in part, service
        assert 'security_opt: ["no-new-privileges:true"]' in part, service


def test_what_wattline_secure_writes_is_what_compose_asks_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(["secure"]) == 0
    there = Path(".env").read_text(encoding="utf-8")
    asked = {
        name
        for file in (COMPOSE, PRODUCTION)
        for name, default in re.findall(r"(?<!\$)\$\{(\w+)(:-)?", file.read_text(encoding="utf-8"))
        if not default
    }
    assert [name for name in sorted(asked) if f"\n{name}=" not in there] == []
