import os
import stat
import subprocess
from pathlib import Path

import pytest

from embedded.account import account_for, can_read, write_for
from processes.child import Account
from tests.ordinary_user import ordinary_user

STRANGER = Account("stranger", uid=54321, gid=54321)
ROOT = os.geteuid() == 0


def test_the_bits_of_owner_and_others_count_on_every_folder_above(tmp_path: Path) -> None:
    folder = tmp_path / "closed" / "open"
    folder.mkdir(parents=True)
    folder.parent.chmod(0o700)
    ourselves = Account("ourselves", os.geteuid(), os.getegid())
    assert can_read(Path("/bin/sh"), STRANGER)
    assert can_read(folder, ourselves)
    assert not can_read(folder, STRANGER)
    folder.chmod(0o300)
    assert not can_read(folder, ourselves)


@pytest.mark.skipif(not ROOT, reason="only root chooses another account")
def test_root_takes_the_owner_of_what_is_there_and_else_nobody(tmp_path: Path) -> None:
    chosen = account_for(tmp_path / "new")
    assert chosen is not None
    assert chosen.name == "nobody"
    daemon = tmp_path / "daemon"
    daemon.mkdir()
    os.chown(daemon, 1, 1)
    chosen = account_for(daemon)
    assert chosen is not None
    assert chosen.uid == 1


def test_an_ordinary_user_is_told_whose_data_it_is() -> None:
    ask = "from pathlib import Path; from embedded.account import account_for; account_for(Path('/'))"
    user = ordinary_user()
    result = subprocess.run([user.python, "-c", ask], capture_output=True, text=True, check=False, **user.options)
    assert "/ belongs to root: run as that user, or choose another --data-dir" in result.stderr


def test_a_link_left_in_the_accounts_folder_is_replaced_not_followed(tmp_path: Path) -> None:
    precious = tmp_path / "precious"
    precious.write_text("keep me")
    folder = tmp_path / "data"
    folder.mkdir()
    (folder / "server.conf").symlink_to(precious)
    (folder / "server.conf.draft").symlink_to(precious)
    write_for(None, folder / "server.conf", "new")
    assert precious.read_text() == "keep me"
    assert (folder / "server.conf").read_text() == "new"
    assert stat.S_IMODE((folder / "server.conf").stat().st_mode) == 0o600
