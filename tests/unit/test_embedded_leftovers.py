import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from config.running import RUN_FILE
from embedded.errors import EmbeddedError
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


@pytest.fixture
def sleeper() -> Iterator[subprocess.Popen[bytes]]:
    with subprocess.Popen(["sleep", "600"], start_new_session=True) as process:
        yield process
        process.kill()


def _remember(data_dir: Path, pid: int, started_at: float) -> None:
    text = json.dumps({"pid": 1, "pids": {"ingestor": pid}, "startedAt": {"ingestor": started_at}})
    (data_dir / RUN_FILE).write_text(text)


def test_what_a_killed_up_left_running_is_ended(tmp_path: Path, sleeper: subprocess.Popen[bytes]) -> None:
    _remember(tmp_path, sleeper.pid, psutil.Process(sleeper.pid).create_time())
    end_left_running(tmp_path)
    assert sleeper.wait(5) != 0


def test_a_stranger_with_the_same_id_is_left_alone(tmp_path: Path, sleeper: subprocess.Popen[bytes]) -> None:
    _remember(tmp_path, sleeper.pid, psutil.Process(sleeper.pid).create_time() - 3600)
    end_left_running(tmp_path)
    assert sleeper.poll() is None


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
