import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from config.running import RUN_FILE
from embedded.errors import EmbeddedError
from embedded.leftovers import birth_of, end_leftovers, find_marked, mark_of
from embedded.run_file import end_left_running, sole_run
from tests.waiting import wait_until

HOLDS_THE_LOCK = """
import sys
from pathlib import Path
from embedded.run_file import sole_run
with sole_run(Path(sys.argv[1])):
    print("held", flush=True)
    sys.stdin.read()
"""


ENDED_AND_NEVER_COLLECTED = """
import os, sys
pid = os.fork()
if pid == 0:
    os.execv("/bin/sleep", ["sleep", "600"])
print(pid, flush=True)
sys.stdin.readline()
os.kill(pid, 9)
os.waitid(os.P_PID, pid, os.WEXITED | os.WNOWAIT)
print("ended", flush=True)
sys.stdin.read()
"""


@pytest.fixture
def sleeper() -> Iterator[subprocess.Popen[bytes]]:
    with subprocess.Popen(["sleep", "600"], start_new_session=True) as process:
        yield process
        process.kill()


def _remember(data_dir: Path, pid: int, birth: str | None) -> None:
    text = json.dumps({"pid": 1, "pids": {"ingestor": pid}, "births": {"ingestor": birth}})
    (data_dir / RUN_FILE).write_text(text)


def test_what_a_killed_up_left_running_is_ended(tmp_path: Path, sleeper: subprocess.Popen[bytes]) -> None:
    _remember(tmp_path, sleeper.pid, birth_of(sleeper.pid))
    end_left_running(tmp_path)
    assert sleeper.wait(5) != 0


@pytest.mark.parametrize("birth", [None, "", "another"])
def test_a_stranger_with_the_same_id_is_left_alone(
    tmp_path: Path, sleeper: subprocess.Popen[bytes], birth: str | None
) -> None:
    _remember(tmp_path, sleeper.pid, birth)
    end_left_running(tmp_path)
    assert sleeper.poll() is None


def test_no_two_processes_have_the_same_birth(sleeper: subprocess.Popen[bytes]) -> None:
    assert birth_of(sleeper.pid) == birth_of(sleeper.pid) != birth_of(os.getpid())


def test_one_that_ended_and_that_nobody_collected_is_no_leftover(tmp_path: Path) -> None:
    """As in a container whose first process is a shell."""
    command = [sys.executable, "-c", ENDED_AND_NEVER_COLLECTED]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as parent:
        assert parent.stdin is not None
        assert parent.stdout is not None
        pid = int(parent.stdout.readline())
        birth = birth_of(pid)
        assert birth is not None
        parent.stdin.write(b"\n")
        parent.stdin.flush()
        assert parent.stdout.readline() == b"ended\n"
        assert birth_of(pid) is None
        _remember(tmp_path, pid, birth)
        started = time.monotonic()
        end_left_running(tmp_path)
        assert time.monotonic() - started < 5.0  # it would wait for the end of each for 10 s
        parent.communicate(b"")


def test_a_server_is_known_by_the_mark_of_its_folder_and_by_nothing_else(tmp_path: Path) -> None:
    ours, copy = tmp_path / "ours", tmp_path / "copy"
    for folder in (ours, copy):
        folder.mkdir()
    with (
        subprocess.Popen(["/bin/sh", "-c", "read x", f"-D{mark_of(ours)}"], stdin=subprocess.PIPE) as server,
        subprocess.Popen(["/bin/sh", "-c", "read x", f"-D{mark_of(copy)}"], stdin=subprocess.PIPE) as stranger,
    ):
        assert [process.pid for process in find_marked(_name_of(server), ours)] == [server.pid]
        ours.rename(tmp_path / "elsewhere")
        end_leftovers("another", tmp_path / "elsewhere")
        assert server.poll() is None
        end_leftovers(_name_of(server), tmp_path / "elsewhere")
        assert server.wait(5) != 0
        assert stranger.poll() is None
        stranger.communicate(b"")


def _name_of(process: subprocess.Popen[bytes]) -> str:
    """`sh` is a link to `dash` or `bash`; the kernel says which name it goes by."""
    return psutil.Process(process.pid).name()


@pytest.mark.parametrize("text", ["", "{", "[]"])
def test_a_torn_run_file_is_no_obstacle(tmp_path: Path, text: str) -> None:
    (tmp_path / RUN_FILE).write_text(text)
    end_left_running(tmp_path)


def test_one_up_a_folder_and_the_lock_goes_with_its_holder(tmp_path: Path) -> None:
    command = [sys.executable, "-c", HOLDS_THE_LOCK, str(tmp_path)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as holder:
        assert holder.stdout is not None
        assert holder.stdout.readline() == b"held\n"
        with pytest.raises(EmbeddedError, match=rf"already runs in .* \(pid {holder.pid}\)"), sole_run(tmp_path):
            pass
        holder.kill()
        holder.wait()
        wait_until(lambda: holder.poll() is not None)
    with sole_run(tmp_path):
        assert (tmp_path / "up.lock").read_text() == str(os.getpid())
