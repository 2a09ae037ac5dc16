"""Dropped files are taken once, broken ones are set aside, nothing is lost."""

import os
import time
from pathlib import Path

import pytest
import sqlalchemy as sa

from rul_core.errors import StoreError, Unavailable
from rul_store.database import begin, connect
from rul_store.landing import Landing, fleets_with_landing
from rul_store.tables import landed_files


def drop(root: Path, name: str, content: str = "1,2\n") -> Path:
    path = root / "landing" / "pumps" / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(content)
    return path


@pytest.fixture
def landing(engine: sa.Engine, tmp_path: Path) -> Landing:
    return Landing(engine, tmp_path, "pumps", settle_seconds=0)


def test_an_empty_or_missing_landing_folder_holds_nothing(landing: Landing):
    assert landing.look().ready == ()


def test_files_are_found_in_folders_but_not_temporaries(landing: Landing, tmp_path: Path):
    wanted = [drop(tmp_path, name) for name in ("a.csv", "2026/11/b.txt")]
    for name in (".hidden", "c.csv.part", "d.tmp", ".set-aside/e.csv", ".x/f.csv"):
        drop(tmp_path, name)
    (tmp_path / "landing" / "pumps" / "dangling").symlink_to(tmp_path / "nowhere")
    assert sorted(landing.look().ready) == sorted(wanted)


def test_a_file_that_changed_a_moment_ago_is_left_for_the_next_look(
    engine: sa.Engine, tmp_path: Path
):
    path = drop(tmp_path, "a.csv")
    os.utime(path, (0, 0))  # a copy may keep an old modification time
    patient = Landing(engine, tmp_path, "pumps", settle_seconds=0.2)
    assert patient.look().unsettled == (path,)
    assert patient.look().ready == ()
    time.sleep(0.25)
    assert patient.look().ready == (path,)
    assert patient.look().unsettled == ()


def test_a_taken_file_stays_and_is_not_shown_again(landing: Landing, tmp_path: Path):
    path = drop(tmp_path, "a.csv")
    file = landing.read(path)
    assert (file.name, file.data) == ("a.csv", b"1,2\n")
    assert not landing.was_taken(file)
    landing.mark_taken(file, rows=1)
    assert landing.was_taken(file)
    assert landing.look().ready == ()
    assert path.exists()


def test_the_same_content_under_another_name_is_known_and_then_not_shown(
    landing: Landing, tmp_path: Path
):
    landing.mark_taken(landing.read(drop(tmp_path, "a.csv")), rows=1)
    again = drop(tmp_path, "again/b.csv")
    assert landing.look().ready == (again,)
    assert landing.was_taken(landing.read(again))
    assert landing.look().ready == ()


def test_new_content_under_a_taken_name_is_shown(landing: Landing, tmp_path: Path):
    landing.mark_taken(landing.read(drop(tmp_path, "a.csv")), rows=1)
    path = drop(tmp_path, "a.csv", "3,4\n")
    assert landing.look().ready == (path,)
    assert not landing.was_taken(landing.read(path))


def test_a_broken_file_is_set_aside_with_its_error_and_a_mended_one_is_taken(
    landing: Landing, tmp_path: Path, engine: sa.Engine
):
    path = drop(tmp_path, "sub/a.csv", "1,x\n")
    aside = landing.set_aside(landing.read(path), "row 1, column b: 'x' is no number")
    assert aside.parent == tmp_path / "landing" / "pumps" / ".set-aside"
    assert aside.read_text() == "1,x\n"
    error = aside.with_name(aside.name + ".error.txt").read_text()
    assert error == "sub/a.csv: row 1, column b: 'x' is no number\n"
    assert not path.exists()
    with begin(engine) as connection:
        row = connection.execute(sa.select(landed_files)).one()
    assert (row.status, row.error, row.rows) == (
        "broken",
        "row 1, column b: 'x' is no number",
        None,
    )
    mended = drop(tmp_path, "sub/a.csv", "1,2\n")
    assert landing.look().ready == (mended,)
    assert not landing.was_taken(landing.read(mended))


def test_broken_files_of_one_name_do_not_replace_each_other(landing: Landing, tmp_path: Path):
    asides = {
        landing.set_aside(landing.read(drop(tmp_path, name, content)), "bad")
        for name, content in (("a.csv", "x"), ("a.csv", "y"), ("sub/a.csv", "z"))
    }
    assert sorted(path.read_text() for path in asides) == ["x", "y", "z"]


def test_a_broken_file_is_tried_again_when_dropped_again(landing: Landing, tmp_path: Path):
    landing.set_aside(landing.read(drop(tmp_path, "a.csv")), "no fleet description yet")
    path = drop(tmp_path, "a.csv")
    assert landing.look().ready == (path,)
    file = landing.read(path)
    assert not landing.was_taken(file)
    landing.mark_taken(file, rows=1)
    assert landing.was_taken(file)


def test_a_file_that_vanishes_or_changes_is_left_for_the_next_look(
    landing: Landing, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    path = drop(tmp_path, "a.csv")

    def read_while_it_grows(self: Path) -> bytes:
        with self.open("ab") as file:
            file.write(b"3,4\n")
        return b"1,2\n"

    with monkeypatch.context() as patch:
        patch.setattr(Path, "read_bytes", read_while_it_grows)
        with pytest.raises(StoreError, match=r"a\.csv changed while it was read"):
            landing.read(path)
    path.unlink()
    with pytest.raises(StoreError, match=r"a\.csv cannot be read"):
        landing.read(path)


def test_fleets_do_not_share_what_was_taken(landing: Landing, tmp_path: Path, engine: sa.Engine):
    file = landing.read(drop(tmp_path, "a.csv"))
    landing.mark_taken(file, rows=1)
    assert not Landing(engine, tmp_path, "fans").was_taken(file)


def test_a_name_that_is_no_utf8_is_taken_too(landing: Landing, tmp_path: Path):
    folder = drop(tmp_path, "a.csv").parent
    odd = Path(os.fsdecode(bytes(folder) + b"/caf\xe9.csv"))
    odd.write_text("5\n")
    file = landing.read(odd)
    assert file.name == r"caf\xe9.csv"
    landing.mark_taken(file, rows=1)
    assert odd not in landing.look().ready


def test_landing_folders_are_listed(tmp_path: Path):
    assert fleets_with_landing(tmp_path) == ()
    for name in ("b", "a", ".x", "not a name"):
        (tmp_path / "landing" / name).mkdir(parents=True)
    (tmp_path / "landing" / "file").write_text("")
    assert fleets_with_landing(tmp_path) == ("a", "b")


def test_a_fleet_cannot_leave_the_landing_folder(engine: sa.Engine, tmp_path: Path):
    with pytest.raises(StoreError, match="fleet"):
        Landing(engine, tmp_path, "..")


def test_without_a_database_looking_says_so(tmp_path: Path):
    nowhere = connect("postgresql://u@127.0.0.1:1/rul")
    with pytest.raises(Unavailable):
        Landing(nowhere, tmp_path, "pumps").look()
