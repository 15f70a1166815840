import os
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

from processes.child import Program
from processes.errors import ProcessError
from processes.service import Service
from processes.supervisor import FIRST_WAIT_SECONDS, LONGEST_WAIT_SECONDS, SETTLED_SECONDS, Restarts, Supervisor
from tests.waiting import wait_until


class Sleeper(Service):
    name = label = "sleeper"

    def __init__(self, folder: Path) -> None:
        super().__init__(folder / "sleeper.log")
        self.broken = False

    def prepare(self) -> Program:
        if self.broken:
            raise ProcessError("its port is taken")
        command = ("/bin/sh", "-c", "echo here; exec sleep 600")
        return Program(name=self.name, command=command, log=self.log, environment={"PATH": os.defpath})

    def is_ready(self) -> bool:
        return self.running and "here" in self.log.read_text()


@pytest.fixture
def sleeper(tmp_path: Path) -> Iterator[Sleeper]:
    service = Sleeper(tmp_path)
    service.start()
    yield service
    service.kill()


def test_waits_double_up_to_a_limit() -> None:
    restarts = Restarts()
    for wait in (*(FIRST_WAIT_SECONDS * 2**n for n in range(6)), LONGEST_WAIT_SECONDS, LONGEST_WAIT_SECONDS):
        assert wait / 2 <= restarts.ended(0.0) <= wait


def test_who_ran_long_enough_is_restarted_quickly_again() -> None:
    restarts = Restarts()
    for _ in range(5):
        restarts.ended(0.0)
    restarts.started(100.0)
    now = 100.0 + SETTLED_SECONDS
    assert restarts.ended(now) <= now + FIRST_WAIT_SECONDS


def test_a_running_service_is_left_alone(sleeper: Sleeper) -> None:
    pid = sleeper.pid
    assert list(Supervisor([sleeper], now=0.0).look(1000.0)) == []
    assert sleeper.pid == pid


def test_a_killed_service_comes_back_after_its_wait(sleeper: Sleeper) -> None:
    supervisor = Supervisor([sleeper], now=0.0)
    pid = sleeper.pid
    sleeper.send(signal.SIGKILL)
    wait_until(lambda: not sleeper.running)
    (news,) = supervisor.look(10.0)
    assert news == f"sleeper was ended by SIGKILL; restarting it (log: {sleeper.log})"
    assert list(supervisor.look(10.0 + FIRST_WAIT_SECONDS / 4)) == []
    assert not sleeper.running
    assert list(supervisor.look(10.0 + FIRST_WAIT_SECONDS)) == []
    sleeper.wait_ready()
    assert sleeper.pid != pid


def test_a_restart_that_fails_is_said_and_tried_again(sleeper: Sleeper) -> None:
    supervisor = Supervisor([sleeper], now=0.0)
    sleeper.kill()
    sleeper.broken = True
    list(supervisor.look(10.0))
    assert list(supervisor.look(11.0)) == ["sleeper cannot be restarted: its port is taken"]
    sleeper.broken = False
    assert list(supervisor.look(11.0 + FIRST_WAIT_SECONDS / 2)) == []
    assert not sleeper.running
    assert list(supervisor.look(12.0)) == []
    assert sleeper.running
