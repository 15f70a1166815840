from pathlib import Path

import pytest

from embedded.up import Options, _Run


@pytest.mark.parametrize(("chosen", "folder"), [(None, "data/spool"), ("mine", "mine"), ("/var/mine", "/var/mine")])
def test_what_nothing_else_takes_is_kept_beside_the_data_and_where_the_ingestor_may_write(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, chosen: str | None, folder: str
) -> None:
    monkeypatch.chdir(tmp_path)
    if chosen:
        monkeypatch.setenv("REJECTED_SPOOL_DIR", chosen)
    (tmp_path / "data" / "postgres").mkdir(parents=True)
    (tmp_path / "data" / "postgres" / "pgpass").write_text("127.0.0.1:*:*:postgres:secret\n")
    household = _Run(Options(0, 0, 0.0, 0, 0, 0, 0, Path("data")))._set_up_household()
    starts_in = household.home if household.interpreter.account else tmp_path
    assert (starts_in / household.environment["REJECTED_SPOOL_DIR"]).resolve() == tmp_path / folder
    assert household.home == tmp_path / "data" / "spool"  # which is the account's
