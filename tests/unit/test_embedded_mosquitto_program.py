from pathlib import Path

import pytest

from embedded import mosquitto_program as programs
from embedded.errors import EmbeddedError
from processes.child import Account

OLD = "#!/bin/sh\necho 'mosquitto version 1.6.9'\nexit 3\n"
NEW = "#!/bin/sh\necho 'mosquitto version 2.0.20'\nexit 3\n"
# Does what `brew install mosquitto` does to PATH.
BREW = '#!/bin/sh\n[ "$1" = install ] && /bin/mv {folder}/bottle {folder}/mosquitto\n'


@pytest.fixture
def path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A machine on which only these programs exist."""
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setattr(programs, "BESIDE_PATH", ())
    return tmp_path


def _program(path: Path, text: str) -> None:
    path.write_text(text)
    path.chmod(0o755)


def test_the_one_on_path_comes_first(path: Path) -> None:
    _program(path / "mosquitto", NEW)
    assert programs.mosquitto_program(None).path == path / "mosquitto"


BROKEN = "#!/bin/sh\necho 'error while loading shared libraries: libwebsockets.so' >&2\nexit 127\n"


@pytest.mark.parametrize("first", [OLD, BROKEN])
def test_one_that_does_not_serve_hides_none_that_does(
    path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, first: str
) -> None:
    (tmp_path / "first").mkdir()
    _program(tmp_path / "first" / "mosquitto", first)
    _program(path / "mosquitto", NEW)
    monkeypatch.setenv("PATH", f"{tmp_path / 'first'}::{path}")
    assert programs.mosquitto_program(None).path == path / "mosquitto"


def test_one_in_roots_own_folder_is_not_for_the_servers_account(path: Path) -> None:
    _program(path / "mosquitto", NEW)
    path.chmod(0o700)
    with pytest.raises(EmbeddedError, match="is missing"):
        programs.mosquitto_program(Account("stranger", 54321, 54321))


@pytest.mark.parametrize("there", [None, OLD])
def test_none_that_serves_is_one_line_of_what_to_install(path: Path, there: str | None) -> None:
    if there:
        _program(path / "mosquitto", there)
    with pytest.raises(
        EmbeddedError, match=r"Mosquitto 2\.0 or later is missing: .*apt-get install mosquitto"
    ) as raised:
        programs.mosquitto_program(None)
    assert "\n" not in str(raised.value)


def test_homebrew_is_asked_where_there_is_one(path: Path) -> None:
    _program(path / "bottle", NEW)
    _program(path / "brew", BREW.format(folder=path))
    assert programs.mosquitto_program(None).path == path / "mosquitto"
