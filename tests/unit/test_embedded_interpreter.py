import os
import subprocess
import sys
import sysconfig
from pathlib import Path

import pytest

from embedded import interpreter
from embedded.account import account_for
from embedded.interpreter import interpreter_for

SAYS_WHO = "import os, wattline; print(os.getuid(), flush=True)"
pytestmark = pytest.mark.skipif(
    os.geteuid() != 0 or sys.platform != "linux", reason="only root gives its commands another user"
)


def test_an_account_that_may_enter_nothing_above_runs_our_code_all_the_same(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    account = account_for(tmp_path / "new")
    monkeypatch.setattr(interpreter, "can_read", lambda *_: False)
    found = interpreter_for(account)
    assert found.account == account
    assert found.why_not is None
    said = subprocess.check_output(
        [found.program, "-c", SAYS_WHO], user=account.uid, env=found.environment, pass_fds=found.folders, cwd="/"
    )
    assert said == b"%d\n" % account.uid


def test_what_the_account_may_not_read_stays_closed_and_the_reason_is_told(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """As in a clone that was made under a umask of 077."""
    (tmp_path / "wattline").mkdir(mode=0o700)
    monkeypatch.setattr(interpreter, "SOURCE", tmp_path)
    monkeypatch.setattr(interpreter, "can_read", lambda *_: False)
    before = len(os.listdir("/proc/self/fd"))  # noqa: PTH208 - the folder counts itself either way
    found = interpreter_for(account_for(tmp_path / "new"))
    assert (found.program, found.account, found.folders) == (sys.executable, None, ())
    assert found.why_not is not None
    assert found.why_not.startswith(
        f"the user nobody, who runs the servers, cannot read {sysconfig.get_path('purelib')} or {tmp_path}; let others"
    )
    assert len(os.listdir("/proc/self/fd")) == before  # noqa: PTH208
