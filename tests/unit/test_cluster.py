"""What a node of a cluster has to be set to, by the formula of docs/scaling.md, and what is said where it is not."""

from __future__ import annotations

from dataclasses import replace

import pytest

from ingestor.schema.cluster import Node, locks_needed, trouble_with_node

NODE = Node("10.0.0.2:5432", 64, 100, 200, "on", "on", "UTC")


@pytest.mark.parametrize(
    ("shards", "days", "locks"),
    [(16, 5, 16 * 2 * 96 * 3), (16, 96, 16 * 2 * 96 * 3), (16, 400, 16 * 2 * 400 * 3), (1, 0, 2 * 96 * 3)],
)
def test_locks_follow_the_shards_of_a_node_and_the_days(shards: int, days: int, locks: int) -> None:
    assert locks_needed(shards, days) == locks


@pytest.mark.parametrize(
    ("node", "said"),
    [
        (NODE, None),
        (replace(NODE, prepared_transactions=0), "max_prepared_transactions"),
        (replace(NODE, synchronous_commit="off"), "synchronous_commit"),
        (replace(NODE, synchronous_commit="local"), "synchronous_commit"),
        (replace(NODE, fsync="off"), "fsync"),
        (replace(NODE, time_zone="Europe/Berlin"), "UTC"),
        (replace(NODE, locks_per_transaction=10), "max_locks_per_transaction to 31"),
    ],
)
def test_what_is_wrong_is_named(node: Node, said: str | None) -> None:
    trouble = trouble_with_node(node, locks_needed(16, 5))
    assert trouble is None if said is None else said in (trouble or "")
