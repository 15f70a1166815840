"""docker-compose.yml names whole versions, so that a broker does not change by itself."""

from __future__ import annotations

import re
from pathlib import Path

from tests.containers import MOSQUITTO_IMAGE

COMPOSE = Path(__file__).parents[2] / "docker-compose.yml"


def test_the_brokers_version_is_pinned_and_the_one_that_the_tests_use() -> None:
    images = re.findall(r"^    image: (eclipse-mosquitto:\S+)$", COMPOSE.read_text(encoding="utf-8"), re.MULTILINE)
    assert images == [MOSQUITTO_IMAGE]
    assert re.fullmatch(r"eclipse-mosquitto:\d+\.\d+\.\d+(-alpine)?", MOSQUITTO_IMAGE)
