"""What the log says of an outage, in whatever order its connections fail."""

import itertools

import pytest

from analytics_api.database.outage import Outage

REFUSED = ("is not there", "connection refused")
STOPPING = ("is starting, stopping or recovering", "the database system is shutting down")


@pytest.mark.parametrize("order", set(itertools.permutations([REFUSED, REFUSED, STOPPING, STOPPING])))
def test_each_reason_is_told_once_an_outage(
    order: tuple[tuple[str, str], ...], caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO")
    outage = Outage("db")
    for trouble, reason in order:
        outage.begun(trouble, reason)
        assert outage.trouble == trouble
    outage.ended()
    outage.ended()
    assert outage.trouble is None
    first, second, last = caplog.messages
    assert first == f"PostgreSQL at db does not serve us: {order[0][1]}; trying again"
    assert second.startswith("PostgreSQL at db is still away: ")
    assert last == "PostgreSQL at db serves us again"


def test_the_next_outage_is_told_again(caplog: pytest.LogCaptureFixture) -> None:
    outage = Outage("db")
    for _ in range(2):
        outage.begun(*REFUSED)
        outage.ended()
    assert sum("does not serve us" in message for message in caplog.messages) == 2
