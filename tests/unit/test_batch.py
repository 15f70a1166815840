"""The rules of a batch: what is acknowledged, when it is due, and which reading counts."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from ingestor.batch import Batch, FlushPolicy, Row, first_of_each, in_key_order, newest_per_device
from ingestor.rejected.limit import KeepLimit

POLICY = FlushPolicy(interval_seconds=0.25, rows_max=3, bytes_max=1000)
rows = st.lists(st.tuples(st.sampled_from("abc"), st.integers(0, 5), st.floats(0, 9), st.floats(0, 9)))


class Remembering:
    """Stands where a connection would, and remembers its acknowledgements."""

    def __init__(self, is_open: bool = True) -> None:
        self.is_open = is_open
        self.acknowledged: list[int] = []

    def acknowledge(self, packet_ids: Sequence[int]) -> bool:
        self.acknowledged += packet_ids
        return self.is_open


def test_an_empty_batch_is_never_due() -> None:
    assert POLICY.seconds_until_due(Batch(), now=1e9) is None
    assert POLICY.full(Batch()) is None


def test_a_batch_is_due_an_interval_after_its_first_reading() -> None:
    batch = Batch(arrivals=[(100.0, 1), (100.2, 1)])
    assert POLICY.seconds_until_due(batch, now=100.1) == 100.0 + 0.25 - 100.1
    overdue = POLICY.seconds_until_due(batch, now=100.3)
    assert overdue is not None
    assert overdue <= 0


def test_rows_and_bytes_close_a_batch_early() -> None:
    assert POLICY.full(Batch(rows={"meter": [("m", n, 0.0, 0.0) for n in range(2)]})) is None
    assert POLICY.full(Batch(rows={"meter": [("m", n, 0.0, 0.0) for n in range(3)]})) == "rows"
    assert POLICY.full(Batch(payload_bytes=1000)) == "bytes"


def test_acknowledgements_go_to_the_connection_they_came_on_in_the_order_of_receiving() -> None:
    old, new = Remembering(is_open=False), Remembering()
    batch = Batch()
    batch.owe(old.acknowledge, [7, 3])
    batch.owe(old.acknowledge, [9])
    batch.owe(new.acknowledge, [])
    batch.owe(new.acknowledge, [1, 2])
    assert batch.unacknowledged == 5
    assert batch.acknowledge() == 3, "those of the connection that has ended"
    assert (old.acknowledged, new.acknowledged) == ([7, 3, 9], [1, 2])


@given(rows)
def test_of_repeated_readings_the_first_received_counts(
    received: list[Row],
) -> None:
    expected: dict[Any, Any] = {}
    for row in received:
        expected.setdefault(row[:2], row)
    assert first_of_each(received) == [expected[key] for key in sorted(expected)]


@given(rows)
def test_the_fast_path_writes_in_the_order_of_the_primary_key(
    received: list[Row],
) -> None:
    keys = [row[:2] for row in in_key_order(received)]
    assert keys == sorted(row[:2] for row in received)


@given(rows)
def test_the_newest_reading_of_each_device(received: list[Row]) -> None:
    newest = newest_per_device(first_of_each(received))
    assert [(row[0], row[1]) for row in newest] == sorted(
        (device, max(row[1] for row in received if row[0] == device)) for device in {row[0] for row in received}
    )


def test_of_a_flood_only_so_many_a_second_are_kept() -> None:
    now = [10.0]
    limit = KeepLimit(2, clock=lambda: now[0])
    assert [limit.take() for _ in range(4)] == [True, True, False, False]
    now[0] = 11.0
    assert limit.take()
    assert not KeepLimit(0).take()
