import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent.parent
FILES = 400
WITH_FEW_FILES = f"""
import resource, sys, pytest
resource.setrlimit(resource.RLIMIT_NOFILE, ({FILES}, resource.getrlimit(resource.RLIMIT_NOFILE)[1]))
sys.exit(pytest.main(["-q", "-p", "no:cacheprovider", "-p", "tests.conftest", sys.argv[1]]))
"""


@pytest.mark.parametrize("fails", [True, False])
def test_a_failing_run_says_at_its_end_what_the_machine_lacks(tmp_path: Path, fails: bool) -> None:
    (tmp_path / "test_it.py").write_text(f"def test_it() -> None:\n    assert {not fails}\n")
    # The plugins of the other tests take most of the time of such a small run.
    environment = {"PATH": os.defpath, "HOME": str(tmp_path), "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1"}
    result = subprocess.run(
        [sys.executable, "-c", WITH_FEW_FILES, str(tmp_path / "test_it.py")],
        cwd=ROOT,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert result.returncode == fails, result.stdout + result.stderr
    lacking = [line for line in result.stdout.splitlines() if line.startswith("this machine lacks something: ")]
    assert any(f"a process may have {FILES} files open, 1024 are needed" in line for line in lacking) == fails
