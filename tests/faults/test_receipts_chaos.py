"""Devices that send until their receipts come, while everything else is killed: nothing ever published is lost.

Broker, database and ingestor die by `kill -9`, one or two at a time, in an order by chance, once readings come
through again. WATTLINE_CHAOS_KILLS=100 makes it a long run with a connection for each of the 1,000 devices.
"""

from __future__ import annotations

import json
import os
import signal
from collections.abc import Callable
from random import Random

import pytest

from tests.backends import Broker, Database
from tests.faults.counting import assert_books_balance, rows_in_history
from tests.processes import WattlineProcess
from tests.waiting import wait_until

KILLS = int(os.environ.get("WATTLINE_CHAOS_KILLS", "0"))
SEED = int(os.environ.get("WATTLINE_CHAOS_SEED", "1"))
DEVICES, KILLS_IN_THE_SUITE, CONNECTIONS_IN_THE_SUITE = 1000, 6, 50


@pytest.mark.timeout(max(180, 30 * KILLS))
def test_every_reading_that_was_published_is_stored_once_whoever_dies(
    start_wattline: Callable[..., WattlineProcess],
    postgres_factory: Callable[[], Database],
    broker_factory: Callable[[], Broker],
) -> None:
    broker, database = broker_factory(), postgres_factory()
    url = database.url_of("energy_db")
    environment = {"DATABASE_URL": url, "MQTT_URL": broker.url}
    ingestor = start_wattline("ingest", **environment)
    ingestor.wait_ready()
    chance = Random(SEED)
    fleet = ("--meters", str(DEVICES // 2), "--vehicles", str(DEVICES // 2), "--interval", "5")
    loadgen = start_wattline(
        "loadgen",
        *fleet,
        *("--receipts", "2", "--duration", "86400", "--verify", "--json"),
        *("--connections", str(DEVICES if KILLS else CONNECTIONS_IN_THE_SUITE)),
        **environment,
    )
    stored = 0
    victims: list[WattlineProcess | Broker | Database] = [broker, database, ingestor]
    for number in range(KILLS or KILLS_IN_THE_SUITE):
        wait_until(lambda before=stored: rows_in_history(url) > before + 20, 60, "readings come through")
        # Each at least once; then anybody, and anybody else as well.
        dying = [victims[number]] if number < len(victims) else chance.sample(victims, chance.choice([1, 1, 2]))
        for victim in dying:
            victim.kill()
        for victim in dying:
            victim.start()
        wait_until(lambda: rows_in_history(url) >= 0, 60, "the database answers")
        stored = rows_in_history(url)

    loadgen.signal(signal.SIGTERM)
    status = loadgen.wait(150)
    said = [line for line in loadgen.output().splitlines() if not line.startswith("loadgen: published")]
    assert status == 0, "\n".join(said[-20:])
    report = json.loads(said[-1])
    assert (report["unacknowledged"], report["refused"], report["notSent"]) == (0, {}, 0)
    verified = report["verified"]
    assert (verified["lost"], verified["duplicated"], verified["wrong"]) == (0, 0, 0)
    assert report["published"] == verified["acknowledged"] == rows_in_history(url)
    assert report["publishedAgain"] > 0, "somebody had to send again, or nothing was tried"
    assert_books_balance(ingestor)
    if KILLS:
        print(json.dumps(report))  # noqa: T201 - for whoever asked for the long run
