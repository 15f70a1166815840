"""The brokers that are tried, and what is known of each; the table of docs/scaling.md says the same."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from embedded.mosquitto import MosquittoServer
from embedded.mosquitto_program import MosquittoProgram
from tests.backends import Broker, new_broker
from tests.brokers.java import HiveMq, missing


@dataclass(frozen=True)
class Kind:
    """A broker and what it does with a share group."""

    name: str
    make: Callable[[Path], Broker]
    why_not: Callable[[], str | None]
    """What it takes and is missing here, in one line; None where nothing is."""
    window: int | None
    """Messages that a member gets ahead of its acknowledgements; None = as many as it asks for."""
    gives_to_absent: bool
    """Whether a member that is away gets its share."""
    keeps_shared_subscriptions: bool
    """Whether they are there after a restart."""
    not_yet_back: str | None = None
    """What is missing a minute after kills and a restart, where anything is; its reason is open."""


def _other_mosquitto(folder: Path) -> Broker:
    return MosquittoServer(folder, program=MosquittoProgram(Path(os.environ["OTHER_MOSQUITTO"]).absolute()))


def _no_other_mosquitto() -> str | None:
    program = os.environ.get("OTHER_MOSQUITTO")
    if program and shutil.which(program):
        return None
    return "OTHER_MOSQUITTO is not set: the path of a Mosquitto of another version than the one that the suite uses"


KINDS = (
    Kind(
        "mosquitto",
        make=new_broker,
        why_not=lambda: None,
        window=None,
        gives_to_absent=True,
        keeps_shared_subscriptions=False,
    ),
    Kind(
        "other-mosquitto",
        make=_other_mosquitto,
        why_not=_no_other_mosquitto,
        window=None,
        gives_to_absent=True,
        keeps_shared_subscriptions=False,
    ),
    Kind(
        "hivemq-ce",
        make=HiveMq,
        why_not=missing,
        window=50,
        gives_to_absent=False,
        keeps_shared_subscriptions=True,
        not_yet_back="up to one window (50) of a killed member was not delivered again within a minute",
    ),
)
