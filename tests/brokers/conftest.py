"""Each test of this folder runs against every broker that can be had here; the others are skipped, with a line."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.backends import Broker
from tests.brokers.kinds import KINDS, Kind
from tests.faults.conftest import publisher, sql, start_ingestor  # noqa: F401 - fixtures
from tests.faults.test_ingest_members import group  # noqa: F401 - same


@pytest.fixture(params=[pytest.param(kind, id=kind.name, marks=pytest.mark.xdist_group(kind.name)) for kind in KINDS])
def kind(request: pytest.FixtureRequest) -> Kind:
    """One of the brokers."""
    one: Kind = request.param
    if (missing := one.why_not()) is not None:
        pytest.skip(missing)
    return one


@pytest.fixture
def broker(kind: Kind, tmp_path: Path) -> Iterator[Broker]:
    """It is running."""
    tmp_path.chmod(0o755)
    one = kind.make(tmp_path / "broker")
    one.start()
    yield one
    one.stop()
