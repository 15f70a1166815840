"""A share group that grows from one member to four and shrinks to two, while devices publish."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import pytest

from config.settings import load_settings
from ingestor.service import Ingestor
from tests.backends import Broker
from tests.devices import Device
from tests.faults.counting import assert_stored_once, rows_in_history
from tests.faults.load import Load
from tests.waiting import wait_until_async

PER_SECOND = 400


class Group:
    """The ingestors of one share group, all in this process: what they do to each other goes through the broker."""

    def __init__(self, database_url: str, broker: Broker) -> None:
        self._database_url, self._broker_url = database_url, broker.url
        self._members: dict[str, tuple[Ingestor, asyncio.Task[bool]]] = {}

    def _run(self, name: str, *, leaves: bool = False) -> None:
        settings = load_settings(
            database_url=self._database_url,
            mqtt_url=self._broker_url,
            mqtt_share_group="crew",
            mqtt_client_id=name,
            metrics_port=0,
            flush_interval_ms=20,
        )
        ingestor = Ingestor(settings, leaves=leaves)
        self._members[name] = ingestor, asyncio.create_task(ingestor.run())

    async def join(self, *names: str) -> None:
        """New members, subscribed."""
        for name in names:
            self._run(name)
        for name in names:
            await wait_until_async(self._members[name][0].is_connected, what=f"{name} is subscribed")

    async def all_store(self) -> None:
        """Until each member has stored some of its share."""
        for name, (member, _) in self._members.items():
            stored = member.metrics.readings_committed
            await wait_until_async(lambda stored=stored: stored() > 0, what=f"a reading that {name} has stored")

    async def stop(self, *names: str) -> list[bool]:
        """As SIGTERM does: they may come back."""
        for name in names:
            self._members[name][0].stop()
        return [await self._members.pop(name)[1] for name in names]

    async def leave(self, name: str) -> bool:
        """`wattline ingest --leave`."""
        self._run(name, leaves=True)
        return await self._members.pop(name)[1]

    async def fall_over(self, name: str) -> None:
        """In the middle of everything, without a goodbye to the readings in hand."""
        running = self._members.pop(name)[1]
        running.cancel()
        await asyncio.wait([running])


@pytest.fixture
def group(database_url: str, broker: Broker, monkeypatch: pytest.MonkeyPatch) -> Group:
    monkeypatch.setattr("ingestor.leaving.QUIET_SECONDS", 0.5)
    return Group(database_url, broker)


@pytest.fixture
def gives_to_absent() -> bool:
    """Whether the broker gives a member that is away its share: Mosquitto does. tests/brokers says it of others."""
    return True


def test_from_one_to_four_to_two_members_nothing_is_lost_and_nothing_stranded(  # noqa: PLR0913, PLR0917 - fixtures
    group: Group,
    database_url: str,
    publisher: Device,
    sql: Callable[..., list[Any]],
    caplog: pytest.LogCaptureFixture,
    gives_to_absent: bool,
) -> None:
    published: list[Any] = []

    async def story() -> None:
        await group.join("a")
        with Load(publisher, PER_SECOND) as load:

            async def more(readings: int) -> None:
                enough = len(load.published) + readings
                await wait_until_async(lambda: len(load.published) >= enough, what=f"{readings} more readings")

            await more(PER_SECOND)
            await group.join("b", "c", "d")
            await group.all_store()
            await more(PER_SECOND)
            await group.fall_over("c")
            assert await group.stop("d") == [True]
            await more(PER_SECOND)
            if gives_to_absent:  # a part of what it acknowledged has no way to the tables
                assert rows_in_history(database_url) < len(load.published) - PER_SECOND // 4
            assert await group.leave("c")
            assert await group.leave("d")
            await more(PER_SECOND)
            published.extend(await asyncio.to_thread(load.stop))
        await wait_until_async(lambda: rows_in_history(database_url) >= len(published), what="all that was published")
        assert sql("SELECT DISTINCT client_id FROM mqtt_subscriptions ORDER BY 1") == [("a",), ("b",)]
        assert await group.stop("a", "b") == [True, True]

    asyncio.run(story())
    assert_stored_once(database_url, published)
    assert [record.message for record in caplog.records if record.levelname == "ERROR"] == []
