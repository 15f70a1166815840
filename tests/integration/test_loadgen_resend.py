"""loadgen over a network that breaks with publishes under way: they are sent again, and stored once.

A proxy first holds the broker's answers back, so that it is certain what the cut leaves unanswered: readings that are
stored and whose PUBACK never arrived.
"""

from __future__ import annotations

import asyncio
import re
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass

import psycopg
import pytest

from config.settings import Settings
from loadgen import command
from loadgen.run import Run, run_fleet
from tests.backends import Broker
from tests.metrics import metric
from tests.processes import WattlineProcess
from tests.proxy import TcpProxy
from tests.waiting import wait_until, wait_until_async
from wattline.cli import main

LOOKS_WITHOUT_AN_ANSWER = 5
TOTAL = "SELECT (SELECT count(*) FROM meter_readings_history) + (SELECT count(*) FROM vehicle_readings_history)"


@dataclass(frozen=True)
class System:
    """An ingestor at the broker, and a proxy through which loadgen reaches the same broker."""

    ingest: WattlineProcess
    proxy: TcpProxy
    database_url: str


@pytest.fixture
def system(
    start_wattline: Callable[..., WattlineProcess],
    broker: Broker,
    database_url: str,
    proxy_factory: Callable[[int], TcpProxy],
    monkeypatch: pytest.MonkeyPatch,
) -> System:
    ingest = start_wattline("ingest", MQTT_URL=broker.url, DATABASE_URL=database_url)
    ingest.wait_ready()
    proxy = proxy_factory(broker.port)
    monkeypatch.setenv("MQTT_URL", f"mqtt://127.0.0.1:{proxy.port}")
    monkeypatch.setenv("DATABASE_URL", database_url)
    return System(ingest, proxy, database_url)


def number_after(words: str, text: str) -> int:
    found = re.search(rf"{words} ([\d,]+)", text)
    assert found is not None, f"nothing about {words!r} in:\n{text}"
    return int(found[1].replace(",", ""))


@pytest.mark.parametrize(
    "options",
    [
        pytest.param(("--interval", "0.2", "--duration", "2"), id="interval"),
        pytest.param(("--max", "--messages", "4000"), id="max"),
        pytest.param(("--max", "--messages", "4000", "--mqtt-version", "3.1.1"), id="max-3.1.1"),
    ],
)
def test_what_a_cut_left_unanswered_is_sent_again_and_stored_once(
    options: tuple[str, ...], system: System, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    proxy = system.proxy
    held_back: list[int] = []

    async def with_a_cut(run: Run, settings: Settings) -> None:
        counts, looks = run.counts, deque[int](maxlen=LOOKS_WITHOUT_AN_ANSWER)
        running = asyncio.create_task(run_fleet(run, settings))
        await wait_until_async(lambda: counts.acknowledged >= 40, what="the first acknowledgements")
        proxy.blackhole(to_server=False)

        def unanswered_for_good() -> bool:
            looks.append(counts.acknowledged)
            if counts.unacknowledged == 0 or looks.count(counts.acknowledged) < LOOKS_WITHOUT_AN_ANSWER:
                return False
            row = connection.execute(TOTAL).fetchone()
            return row is not None and row[0] > counts.acknowledged

        with psycopg.connect(system.database_url, autocommit=True) as connection:
            await wait_until_async(unanswered_for_good, what="readings that are stored and have no answer")
        held_back.append(counts.unacknowledged)
        proxy.stop()
        proxy.restore()
        proxy.start()
        await running

    monkeypatch.setattr(command, "run_fleet", with_a_cut)
    assert main(["loadgen", "--meters", "20", "--vehicles", "20", *options, "--verify"]) == 0
    report = capsys.readouterr().out
    # Whatever the cut itself caught on its way out comes on top.
    assert number_after("published again after a lost connection:", report) >= held_back[0] > 0
    assert "unacknowledged 0" in report
    acknowledged = number_after("acknowledged", report)
    assert f"verified {acknowledged} acknowledged readings: lost 0, duplicated 0, wrong 0" in report
    # The repetitions did reach the ingestor: it is there that each reading is stored once.
    wait_until(lambda: metric(system.ingest, "wattline_readings_duplicate_total") > 0, 10, "repetitions told apart")
