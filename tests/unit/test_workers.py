"""`wattline ingest --workers`: names at the broker, metrics of all as one, and a group whose workers fail or hang."""

from __future__ import annotations

import asyncio
import logging
import os
from collections.abc import Callable
from pathlib import Path

import pytest
from prometheus_client import generate_latest
from prometheus_client.parser import text_string_to_metric_families

from config.errors import SettingsError
from config.settings import Settings, load_settings
from ingestor.decode import Received
from ingestor.metrics import IngestMetrics
from ingestor.workers import group as group_module
from ingestor.workers.group import WorkerGroup
from ingestor.workers.metrics import GroupMetrics
from ingestor.workers.names import left_behind, settings_of_worker, warn_of_left_behind
from ingestor.workers.worker import Worker
from processes.child import Program
from tests.waiting import wait_until_async


def named(**settings: str) -> list[tuple[str, str | None]]:
    """(client id, share group) of each of three."""
    three = [settings_of_worker(load_settings(**settings), number, 3) for number in (1, 2, 3)]  # type: ignore[arg-type]
    return [(one.mqtt_client_id, one.mqtt_share_group) for one in three]


def test_the_first_worker_has_the_session_of_one_that_ran_alone() -> None:
    assert named() == [
        ("wattline-ingestor", "wattline-ingestor"),
        ("wattline-ingestor-worker-2", "wattline-ingestor"),
        ("wattline-ingestor-worker-3", "wattline-ingestor"),
    ]
    assert named(mqtt_client_id="a", mqtt_share_group="crew")[2] == ("a-worker-3", "crew")


def test_one_worker_is_in_no_share_group_unless_it_is_told_to() -> None:
    assert settings_of_worker(load_settings(), 1, 1) == load_settings()


@pytest.mark.parametrize(
    ("client_id", "complaint"),
    [("site/7", "MQTT_SHARE_GROUP must be set for --workers 3"), ("x" * 195, "MQTT_SHARE_GROUP must be set")],
)
def test_a_client_id_that_is_no_share_group(client_id: str, complaint: str) -> None:
    with pytest.raises(SettingsError, match=complaint):
        named(mqtt_client_id=client_id)


def test_a_client_id_without_room_for_a_number() -> None:
    with pytest.raises(SettingsError, match=r"MQTT_CLIENT_ID: .* is too long for a worker"):
        named(mqtt_client_id="x" * 195, mqtt_share_group="crew")


def test_several_workers_and_an_account_that_is_one_client() -> None:
    with pytest.raises(SettingsError, match="the account telemetry of MQTT_URL is one client at the broker"):
        named(mqtt_url="mqtts://telemetry:x@broker")


def test_what_a_larger_number_left_behind(caplog: pytest.LogCaptureFixture) -> None:
    known = ["a-2", "a-worker-2", "a-worker-3", "a-worker-64", "b-worker-4", "a-worker-x", "a-worker-1"]
    assert left_behind("a", 2, known) == [3, 64]
    assert left_behind("a", 1, known) == [2, 3, 64]
    warn_of_left_behind("a", ["b", "a-2"])
    assert caplog.messages == []
    warn_of_left_behind("a", known)
    assert caplog.messages[0].startswith("a-worker-2, a-worker-3, a-worker-64: of `--workers`")


def test_the_metrics_of_all_are_each_workers_own_and_add_up() -> None:
    texts: dict[int, str | None] = {}
    for number in (1, 2):
        books = IngestMetrics()
        books.received(Received(messages={"meter": number}, readings={"meter": 10 * number}))
        texts[number] = generate_latest(books.registry).decode()
    metrics = GroupMetrics(3)
    metrics.restarted(3)
    text = metrics.exposition({**texts, 3: None}).decode()
    families = {family.name: family for family in text_string_to_metric_families(text)}
    assert text.count("# TYPE wattline_readings_received_total counter") == 1
    received = {
        sample.labels["worker"]: sample.value
        for sample in families["wattline_readings_received"].samples
        if sample.labels["kind"] == "meter"
    }
    assert received == {"1": 10, "2": 20}
    assert {sample.labels["worker"]: sample.value for sample in families["wattline_worker_up"].samples} == {
        "1": 1,
        "2": 1,
        "3": 0,
    }
    restarts = [sample for sample in families["wattline_worker_restarts"].samples if sample.name.endswith("_total")]
    assert [(sample.labels["worker"], sample.value) for sample in restarts] == [("1", 0), ("2", 0), ("3", 1)]
    one = {sample.name for family in text_string_to_metric_families(texts[1] or "") for sample in family.samples}
    assert one <= {sample.name for family in families.values() for sample in family.samples}


Start = Callable[[str], WorkerGroup]


@pytest.fixture
def start(monkeypatch: pytest.MonkeyPatch, settings: Settings) -> Start:
    """A group of two whose workers are a line of shell; `$WORKER` is the number."""

    def group(script: str) -> WorkerGroup:
        def prepare(worker: Worker) -> Program:
            environment = {"PATH": os.defpath, "WORKER": str(worker.number)}
            return Program(worker.name, ("/bin/sh", "-c", script), log=None, environment=environment)

        monkeypatch.setattr(Worker, "prepare", prepare)
        return WorkerGroup(settings, 2, ())

    monkeypatch.setattr(group_module, "LOOK_SECONDS", 0.02)
    monkeypatch.setattr(group_module, "STOP_SECONDS", 0.5)
    return group


@pytest.fixture
def settings() -> Settings:
    return load_settings(metrics_port=0)


def test_a_group_of_which_nobody_gets_ready_ends(start: Start, caplog: pytest.LogCaptureFixture) -> None:
    assert asyncio.run(start("exit 1").run()) is False
    assert "none of 2 workers got ready; their own lines say why" in caplog.messages


def test_a_worker_that_ends_is_started_again_beside_one_that_works(
    start: Start, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    async def story() -> None:
        group = start(f"echo >>{tmp_path}/$WORKER; [ $WORKER = 1 ] || exit 3; exec sleep 600")
        running = asyncio.create_task(group.run())
        again = tmp_path / "2"
        await wait_until_async(lambda: again.exists() and len(again.read_text()) > 1, what="a second start")
        assert not running.done()
        assert await group.problems() == ["worker 1: does not answer", "worker 2: does not run"]
        group._stopped.set()
        assert await running

    asyncio.run(story())
    assert (tmp_path / "1").read_text() == "\n"
    assert "worker 2 ended with status 3; restarting it" in caplog.messages


def test_a_worker_that_does_not_stop_is_killed(start: Start, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    async def story() -> bool:
        group = start(f"trap '' TERM; echo >{tmp_path}/$WORKER; exec sleep 600")
        running = asyncio.create_task(group.run())
        await wait_until_async(lambda: len(list(tmp_path.iterdir())) == 2, what="both are there")
        group._stopped.set()
        return await running

    assert asyncio.run(story()) is False
    killed = [record.getMessage() for record in caplog.records if record.levelno == logging.ERROR]
    assert killed == [f"worker {number} did not end within 0 s and is killed" for number in (1, 2)]
