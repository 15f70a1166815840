"""The ingestor takes any source: one of a test's own stands where the broker link does, and no broker is needed."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Awaitable, Callable

import mqtt5
import psycopg
import pytest

from config.settings import load_settings
from ingestor import service
from ingestor.service import Ingestor
from ingestor.source import OnMessages
from mqtt.errors import LinkRefused
from tests.devices import meter_reading
from tests.unit.test_backlog import ScriptedChannel
from tests.waiting import wait_until_async


class ScriptedSource:
    """One channel; what comes over it is the test's story."""

    def __init__(self, on_publish: OnMessages, story: Callable[[ScriptedSource], Awaitable[None]]) -> None:
        self.connection = ScriptedChannel()
        self._on_publish = on_publish
        self._story = story

    async def run(self) -> None:
        await self._story(self)

    def hand_over(self, *packet_ids: int) -> None:
        """A portion of messages, each a reading of its own device."""
        packets = [
            mqtt5.PublishPacket(
                f"v1/telemetry/meter/M-{packet_id}",
                json.dumps(meter_reading(f"M-{packet_id}")).encode(),
                qos=mqtt5.QoS.AT_LEAST_ONCE,
                packet_id=packet_id,
            )
            for packet_id in packet_ids
        ]
        self._on_publish(self.connection, packets)


def ingest(database_url: str, story: Callable[[ScriptedSource], Awaitable[None]]) -> tuple[bool, ScriptedChannel]:
    """How the ingestor ended, and the channel; a batch is written once it has two rows, or at the stop."""
    sources: list[ScriptedSource] = []

    def make_source(_options: object, *, on_publish: OnMessages, **_others: object) -> ScriptedSource:
        sources.append(ScriptedSource(on_publish, story))
        return sources[0]

    async def run() -> bool:
        settings = load_settings(database_url=database_url, metrics_port=0, flush_interval_ms=60_000, flush_max_rows=2)
        return await Ingestor(settings, source=make_source).run()

    return asyncio.run(run()), sources[0].connection


@pytest.mark.parametrize(
    ("failure", "told"),
    [
        (ZeroDivisionError("in the source"), "link: ended by a fault of wattline"),
        (LinkRefused("only a person can help"), "only a person can help"),
    ],
    ids=["a fault", "a refusal"],
)
def test_a_source_that_ends_ends_the_process_once_what_is_in_hand_is_stored_and_acknowledged(
    failure: Exception, told: str, database_url: str, caplog: pytest.LogCaptureFixture
) -> None:
    async def story(source: ScriptedSource) -> None:
        source.hand_over(1, 2)
        await wait_until_async(lambda: source.connection.acknowledged == [1, 2], what="the first acknowledgements")
        source.hand_over(3)
        raise failure

    well, channel = ingest(database_url, story)
    assert not well
    assert channel.acknowledged == [1, 2, 3]
    assert not channel.is_reading, "nothing more is taken"
    assert [record.message for record in caplog.records if record.levelname == "ERROR"] == [told]
    with psycopg.connect(database_url) as connection:
        stored = connection.execute("SELECT meter_id FROM meter_readings_history ORDER BY meter_id").fetchall()
    assert stored == [("M-1",), ("M-2",), ("M-3",)]


def test_readings_go_on_beside_a_chore_that_ends(
    database_url: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    async def ends(*_: object, **__: object) -> None:
        raise ZeroDivisionError("in a chore")

    async def story(source: ScriptedSource) -> None:
        await wait_until_async(lambda: "chore gauges: ended by a fault" in caplog.text, what="the chore's end")
        source.hand_over(1, 2)
        await wait_until_async(lambda: source.connection.acknowledged == [1, 2], what="the acknowledgements")
        raise LinkRefused("the end of the story")

    monkeypatch.setattr(service, "keep_doing", ends)
    well, channel = ingest(database_url, story)
    assert not well
    assert channel.acknowledged == [1, 2]
