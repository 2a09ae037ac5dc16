"""What is kept here is brought beyond the machine, whole, once, and on from where it broke off."""

import io
import json
import random
import re
import shutil
import threading
import uuid
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import obstore
import pytest
import sqlalchemy as sa
from pydantic import SecretStr

from rul_backup import bringing, keys, offsite, remote, runs, snapshots, stores, wal
from rul_backup.archive import export
from rul_backup.bringing import LogBringer
from rul_backup.keeping import Backups, maker_of
from rul_backup.manifest import Kind
from rul_backup.offsite import Spoilt, bring
from rul_backup.reading import VERIFY_KEY, BackupSettings
from rul_backup.remote import RemoteStore
from rul_backup.runs import Run, Sealed
from rul_backup.stores import LEFT, READERS, FolderStore, each, in_turn
from rul_backup.verification import Level, verify
from rul_core.errors import SettingsError, StoreError, Unavailable
from rul_store import backup_rows
from rul_store.backup_rows import RestoreProof

from . import s3 as s3_module
from .conftest import Keys
from .s3 import S3, s3, s3_server

__all__ = ["s3", "s3_server"]

START = datetime(2026, 11, 1, tzinfo=UTC)
NOW = START + timedelta(days=3)


@pytest.fixture
def local(tmp_path: Path) -> FolderStore:
    return FolderStore(tmp_path / "backups")


@pytest.fixture
def place() -> str:
    return uuid.uuid4().hex


@pytest.fixture
def far(s3: S3, place: str) -> RemoteStore:
    return s3.store(place)


def keep(local: FolderStore, plant: Keys, number: int, size: int = 5000) -> Sealed:
    """A run of two things, of which the second is taken over from the second run on."""
    at = START + timedelta(hours=number)
    run, before = Run(local, plant.maker, at), runs.newest(local, plant.verify)
    content = random.Random(number).randbytes(size)
    run.keep("platform.dump", Kind.POSTGRES, io.BytesIO(content), {})
    if before is None:
        run.keep("models.tar", Kind.MODELS, io.BytesIO(b"models"), {})
    else:
        run.take_over(before.manifest.artefacts[1], before)
    return run.seal({}, plant.verify, at)


def look(store: Any, plant: Keys, level: Level = Level.CONTENT) -> list[str]:
    found = verify(store, plant.verify, level, now=NOW, identities=plant.identities)
    return [f"{one.object}: {one.problem}" for one in found.findings]


def test_what_is_brought_is_what_is_here_and_is_brought_once(
    local: FolderStore, far: RemoteStore, plant: Keys
):
    for number in range(3):
        keep(local, plant, number)
    brought = bring(local, far, plant.verify)
    assert (brought.runs, brought.bytes) == (3, sum(local.sizes().values()))
    assert far.sizes() == local.sizes()
    assert look(far, plant) == []
    assert bring(local, far, plant.verify) == (0, 0, 0)
    keep(local, plant, 3)
    assert bring(local, far, plant.verify).runs == 1
    assert [one.manifest.number for one in runs.there(far, plant.verify)] == [1, 2, 3, 4]


def test_an_authority_of_ones_own_is_named_in_the_options(s3_server: S3, place, monkeypatch):
    monkeypatch.delenv("SSL_CERT_FILE", raising=False)
    url = f"s3://{s3_module.BUCKET}/{place}"
    with pytest.raises(Unavailable):
        RemoteStore.at(url, s3_server.options()).sizes()
    named = s3_server.options(authority=s3_server.authority.read_text())
    assert RemoteStore.at(url, named).sizes() == {}
    with pytest.raises(SettingsError, match="OPTIONS cannot be used for s3://"):
        RemoteStore.at(url, s3_server.options(authority="nobody"))


def test_what_broke_off_goes_on_at_the_part_where_it_broke(
    local: FolderStore, far: RemoteStore, plant: Keys, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(remote, "PART_BYTES", 1000)
    sealed = keep(local, plant, 0)
    whole, put = sum(local.sizes().values()), obstore.put
    for times in (1, 3, 2):
        left = [times]

        def breaks(*args: Any, left: list[int] = left, **kwargs: Any) -> Any:
            if not left[0]:
                raise OSError("the line is gone")
            left[0] -= 1
            return put(*args, **kwargs)

        monkeypatch.setattr(obstore, "put", breaks)
        with pytest.raises(Unavailable, match="the line is gone"):
            bring(local, far, plant.verify)
        assert runs.there(far, plant.verify) == []
    monkeypatch.setattr(obstore, "put", put)
    there = sum(far.sizes().values())
    assert there >= 5000
    assert bring(local, far, plant.verify) == (1, whole - there, 0)
    assert far.sizes() == local.sizes()
    assert look(far, plant) == []
    name = sealed.object_of(sealed.manifest.artefacts[0])
    with far.reading(name) as file:
        assert file.read() == (Path(str(local)) / name).read_bytes()


@pytest.mark.parametrize("part", ["part-000000", "part-000002"])
@pytest.mark.parametrize("spoils", ["changed", "gone"])
def test_what_is_spoilt_there_is_found_and_named(
    local: FolderStore,
    far: RemoteStore,
    plant: Keys,
    s3: S3,
    place: str,
    monkeypatch: pytest.MonkeyPatch,
    part: str,
    spoils: str,
):
    monkeypatch.setattr(remote, "PART_BYTES", 1000)
    sealed = keep(local, plant, 0)
    bring(local, far, plant.verify)
    folder = s3.files / place / "runs" / sealed.manifest.run
    path = folder / f"platform.dump.zst.age.{part}"
    content = path.read_bytes()
    s3.spoil(path, None if spoils == "gone" else content[:-1] + bytes([content[-1] ^ 1]))
    (found,) = look(far, plant, Level.STORED)
    assert found.startswith(f"runs/{sealed.manifest.run}/platform.dump.zst.age: ")


def test_what_does_not_come_back_as_it_was_brought_is_told_and_promised_by_nobody(
    local: FolderStore, far: RemoteStore, plant: Keys, monkeypatch: pytest.MonkeyPatch
):
    keep(local, plant, 0)
    put = obstore.put

    def spoilt(store: Any, path: str, content: bytes, **kwargs: Any) -> Any:
        return put(store, path, content[:-1] + bytes([content[-1] ^ 1]), **kwargs)

    monkeypatch.setattr(obstore, "put", spoilt)
    for _ in range(2):  # what lies there now is not taken for good either
        with pytest.raises(StoreError, match=r"platform\.dump\.zst\.age is not what was brought"):
            bring(local, far, plant.verify)
        assert runs.there(far, plant.verify) == []
        monkeypatch.setattr(obstore, "put", put)


def test_what_is_damaged_here_is_named_and_all_else_is_brought(
    local: FolderStore, far: RemoteStore, plant: Keys, tmp_path: Path
):
    sealed = [keep(local, plant, number) for number in range(5)]
    log = archive(local, plant, tmp_path / "spool", 3)
    segments = [wal.read(local, name, plant.verify) for name in wal.names(local)]
    dump, gone = (one.object_of(one.manifest.artefacts[0]) for one in sealed[1:3])
    flip(local, dump)
    flip(local, segments[0].content)
    flip(local, segments[1].object)
    contents = {name: (local.root / name).read_bytes() for name in (gone, sealed[3].object)}
    local.remove(gone)
    flip(local, sealed[3].object)
    with pytest.raises(Spoilt) as told:
        bring(local, far, plant.verify)
    damaged = [segments[0].content, segments[1].object, dump, gone, sealed[3].object]
    assert [name for name in damaged if name in str(told.value)] == damaged
    assert log.newest is not None
    assert wal.names(far) == [log.newest.object]
    assert runs.names(far) == [sealed[0].object, sealed[4].object]
    assert {dump, gone}.isdisjoint(far.sizes())
    for name in (dump, segments[0].content, segments[1].object):
        flip(local, name)
    for name, content in contents.items():
        (local.root / name).parent.mkdir(exist_ok=True)
        (local.root / name).write_bytes(content)
    assert bring(local, far, plant.verify).runs == 3
    assert look(far, plant) == []


def flip(local: FolderStore, name: str) -> None:
    path = local.root / name
    content = path.read_bytes()
    path.write_bytes(bytes([content[0] ^ 1]) + content[1:])


def test_something_else_under_the_name_is_never_written_over(
    local: FolderStore, far: RemoteStore, plant: Keys, s3: S3, place: str
):
    sealed = keep(local, plant, 0)
    path = s3.files / place / sealed.object_of(sealed.manifest.artefacts[0])
    s3.spoil(path, b"mine")
    with pytest.raises(StoreError, match=r"has 4 bytes where .* it is not written over"):
        bring(local, far, plant.verify)
    assert path.read_bytes() == b"mine"


def test_the_two_expire_on_their_own(local: FolderStore, far: RemoteStore, plant: Keys):
    first, second = (keep(local, plant, number) for number in range(2))
    bring(local, far, plant.verify)
    third = keep(local, plant, 2)
    for one in (first, third):  # one that is there, one that never got there
        runs.let_go(local, one, plant.maker.signing_key)
    runs.sweep(local, plant.verify, NOW)
    keep(local, plant, 3)
    bring(local, far, plant.verify)
    assert [one.manifest.number for one in runs.there(far, plant.verify)] == [1, 2, 4]
    assert look(far, plant) == look(local, plant) == []
    assert second.objects.keys() <= far.sizes().keys()


def test_what_a_run_took_over_from_one_that_was_never_brought_is_brought_with_it(
    local: FolderStore, far: RemoteStore, plant: Keys
):
    first = keep(local, plant, 0)
    second = keep(local, plant, 1)
    runs.let_go(local, first, plant.maker.signing_key)
    runs.sweep(local, plant.verify, NOW)
    bring(local, far, plant.verify)
    assert [one.manifest.number for one in runs.there(far, plant.verify)] == [2]
    assert second.objects.keys() == {name for name in far.sizes() if name.startswith("runs/")}
    assert look(far, plant) == []
    assert bring(local, far, plant.verify) == (0, 0, 0)


def test_the_backups_of_another_platform_are_not_mixed_with_ours(
    local: FolderStore, far: RemoteStore, plant: Keys, tmp_path: Path
):
    keep(local, plant, 0)
    bring(local, far, plant.verify)
    before = far.sizes()
    other = FolderStore(tmp_path / "other")
    keep(other, plant, 7)
    with pytest.raises(StoreError, match="give this one a place of its own"):
        bring(other, far, plant.verify)
    assert far.sizes() == before


def test_a_manifest_that_is_damaged_there_is_told_from_another_platform_s(
    local: FolderStore, s3_server: S3, place: str, plant: Keys, monkeypatch
):
    monkeypatch.setenv("SSL_CERT_FILE", str(s3_server.authority))
    far = s3_server.store(place)
    keep(local, plant, 0)
    newest = keep(local, plant, 1)
    bring(local, far, plant.verify)
    s3_server.spoil(s3_server.files / place / newest.object, b"rotten")
    keep(local, plant, 2)
    with pytest.raises(
        StoreError,
        match=rf"{newest.object} is no manifest of this platform's: .*Where it is damaged, remove",
    ):
        bring(local, far, plant.verify)
    assert len(runs.names(far)) == 2
    s3_server.spoil(s3_server.files / place / newest.object, None)
    assert bring(local, far, plant.verify).runs == 2
    assert look(far, plant) == []


def test_a_key_that_is_refused_and_a_place_that_is_not_there_are_told_apart(
    s3: S3, monkeypatch: pytest.MonkeyPatch
):
    stranger = RemoteStore.at("s3://backups/x", s3.options(secret_access_key="wrong"))  # noqa: S106
    with pytest.raises(StoreError, match=r"is refused: .*may put, get and list there"):
        stranger.bring("a", io.BytesIO(b"a"), 1)
    monkeypatch.setattr(remote, "RETRIES", 0)
    nobody = RemoteStore.at("s3://backups/x", s3.options(endpoint="https://127.0.0.1:9"))
    with pytest.raises(Unavailable, match="cannot be reached"):
        nobody.sizes()
    with (
        pytest.raises(StoreError, match="backups/x/a is not there"),
        s3.store("x").reading("a") as file,
    ):
        file.read()
    nowhere = RemoteStore.at("s3://elsewhere/x", s3.options())
    with pytest.raises(StoreError, match="elsewhere/x/a is not there"):
        nowhere.bring("a", io.BytesIO(b"a"), 1)


def test_a_server_whose_certificate_nobody_vouches_for_is_not_spoken_to(
    s3_server: S3, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.delenv("SSL_CERT_FILE", raising=False)
    monkeypatch.setattr(remote, "RETRIES", 0)
    with pytest.raises(Unavailable, match="cannot be reached"):
        s3_server.store("x").sizes()


@pytest.mark.parametrize(
    ("url", "options", "told"),
    [
        ("ftp://x", "", "is no place for backups"),
        ("s3://x/y", "{", "RUL_BACKUP_OFFSITE_OPTIONS cannot be used"),
        ("s3://x/y", "[]", "RUL_BACKUP_OFFSITE_OPTIONS cannot be used"),
        ("s3://x/y", '{"nonsense": "1"}', "RUL_BACKUP_OFFSITE_OPTIONS cannot be used"),
        ("s3://x/y", '{"allow_http": "perhaps"}', 'parse "perhaps" as boolean'),
    ],
)
def test_a_place_or_an_option_that_is_none_is_named_and_no_secret_is(
    url: str, options: str, told: str
):
    with pytest.raises(SettingsError, match=told):
        RemoteStore.at(url, options)


def test_a_store_of_one_s_own_network_is_spoken_to_without_tls_where_that_is_allowed(
    monkeypatch: pytest.MonkeyPatch,
):
    monkeypatch.setattr(remote, "RETRIES", 0)

    class Refusing(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_error(403)

        def log_message(self, format: str, *args: Any) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Refusing) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        options = {
            "endpoint": f"http://127.0.0.1:{server.server_port}", "access_key_id": "a",
            "secret_access_key": "b", "proxy_excludes": "127.0.0.1",
        }  # fmt: skip
        try:
            with pytest.raises(SettingsError, match=r"endpoint is http://127.* without TLS"):
                RemoteStore.at("s3://x/y", json.dumps(options))
            allowed = RemoteStore.at("s3://x/y", json.dumps({**options, "allow_http": True}))
            with pytest.raises(StoreError, match="refuse"):
                allowed.sizes()
        finally:
            server.shutdown()
            thread.join()


def test_a_place_in_azure_is_taken_too_and_one_without_an_account_is_not():
    options = '{"account_name": "plant", "account_key": "a2V5"}'
    store = RemoteStore.at("az://backups/plant", options)
    assert str(store) == "az://backups/plant"
    with pytest.raises(SettingsError, match="Account must be specified"):
        RemoteStore.at("az://backups/plant", "")


def test_a_store_that_does_not_answer_is_no_damage(
    local: FolderStore, far: RemoteStore, plant: Keys, monkeypatch: pytest.MonkeyPatch
):
    keep(local, plant, 0)
    runs.let_go(local, keep(local, plant, 1), plant.maker.signing_key)
    bring(local, far, plant.verify)
    get = obstore.get

    for folder in ("manifests/", "gone/", "runs/"):

        def breaks(store: Any, path: str, folder: str = folder) -> Any:
            if path.startswith(folder):
                raise OSError("the line is gone")
            return get(store, path)

        monkeypatch.setattr(obstore, "get", breaks)
        with pytest.raises(Unavailable, match=f"{folder}.* cannot be reached: the line is gone"):
            look(far, plant, Level.STORED)


def archive(local: FolderStore, plant: Keys, spool: Path, count: int) -> wal.ClusterLog:
    """So many segments of a log, from where it is."""
    found = wal.ClusterLog(local, plant.maker, plant.verify, "7", SEGMENT_BYTES)
    spool.mkdir(exist_ok=True)
    for _ in range(count):
        last = found.last.segment if found.last else wal.Segment(1, 0, SEGMENT_BYTES)
        assert last is not None
        path = spool / str(last.next)
        path.write_bytes(random.Random(last.number).randbytes(SEGMENT_BYTES))
        found.take(path, now=START, reaches_at=START)
    return found


SEGMENT_BYTES = 4096


def test_the_log_is_brought_segment_before_note_and_goes_on_where_it_broke_off(
    local: FolderStore,
    far: RemoteStore,
    plant: Keys,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
):
    keep(local, plant, 0)
    archive(local, plant, tmp_path / "spool", 4)
    put, names = obstore.put, []

    def breaks(objects: Any, path: str, *args: Any, **kwargs: Any) -> Any:
        if len(names) == 5:
            raise OSError("the line is gone")
        names.append(path)
        return put(objects, path, *args, **kwargs)

    monkeypatch.setattr(obstore, "put", breaks)
    with pytest.raises(Unavailable, match="the line is gone"):
        bring(local, far, plant.verify)
    assert [name.endswith(wal.NOTE) for name in names] == [False, True, False, True, False]
    assert look(far, plant) == []
    monkeypatch.setattr(obstore, "put", put)
    (Path(str(local)) / wal.object_of("7", str(wal.Segment(1, 5, SEGMENT_BYTES)))).write_bytes(b"h")
    brought = bring(local, far, plant.verify)
    assert (brought.runs, brought.segments) == (1, 2)
    assert local.sizes().keys() - far.sizes().keys() == {
        wal.object_of("7", str(wal.Segment(1, 5, SEGMENT_BYTES)))  # being sealed: it has no note
    }
    assert look(far, plant) == []
    archive(local, plant, tmp_path / "spool", 1)
    assert bring(local, far, plant.verify).segments == 1
    assert bring(local, far, plant.verify) == (0, 0, 0)
    assert far.sizes() == local.sizes()


def test_a_reading_and_a_bringing_list_nothing_however_much_is_there(
    local: FolderStore, far: RemoteStore, plant: Keys, tmp_path: Path, monkeypatch
):
    sealed = keep(local, plant, 0)
    archive(local, plant, tmp_path / "spool", 3)
    monkeypatch.setattr(remote, "PART_BYTES", 1000)
    listed, listing = [], obstore.list

    def count(*args: Any, **kwargs: Any) -> Any:
        listed.append(kwargs)
        return listing(*args, **kwargs)

    walked, sizes = [], FolderStore.sizes

    def walk(self: FolderStore, below: str = "") -> dict[str, int]:
        walked.append(below)
        return sizes(self, below)

    monkeypatch.setattr(obstore, "list", count)
    monkeypatch.setattr(FolderStore, "sizes", walk)
    LogBringer(local, far, plant.verify).look()
    assert len(listed) == 2  # whose place it is, and which notes it has
    assert walked == ["manifests/", "manifests/", "wal/"]
    for name in sizes(local):
        content = (local.root / name).read_bytes()
        far.bring(name, io.BytesIO(content), len(content))
        with far.reading(name) as file:
            assert file.read() == content
    with pytest.raises(StoreError, match=r"nothing is not there"), far.reading("nothing") as file:
        file.read()
    assert sealed.objects.keys() <= sizes(local).keys()
    assert len(listed) == 2


def test_a_segment_that_is_spoilt_on_the_way_has_no_note_there(
    local: FolderStore, far: RemoteStore, s3: S3, place: str, plant: Keys, tmp_path: Path
):
    noted = archive(local, plant, tmp_path / "spool", 1).newest
    assert noted is not None
    size = noted.note.sums.stored_bytes
    far.bring(noted.content, io.BytesIO(bytes(size)), size)
    with pytest.raises(StoreError, match="is not what was brought: its checksum is"):
        bring(local, far, plant.verify)
    assert noted.object not in far.sizes()


def told_by(name: str) -> float:
    value = bringing.REGISTRY.get_sample_value(name)
    assert value is not None
    return value


def test_the_log_follows_as_it_is_sealed_and_how_far_it_lags_is_told(
    local: FolderStore,
    far: RemoteStore,
    plant: Keys,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
):
    keep(local, plant, 0)
    told: list[dict[str, Any]] = []
    bringer = LogBringer(local, far, plant.verify, tell=lambda **what: told.append(what))
    bringer.look()
    assert (told, told_by("rul_wal_beyond_lag_seconds")) == ([], 0)
    archive(local, plant, tmp_path / "spool", 2)
    bringer.look()
    log = {name for name in local.sizes() if name.startswith("wal/")}
    assert far.sizes().keys() == log
    assert [one["number"] for one in told] == [1, 2]
    assert told_by("rul_wal_beyond_reaches_timestamp_seconds") == START.timestamp()
    put = obstore.put
    monkeypatch.setattr(obstore, "put", lambda *_, **__: _raise(OSError("the line is gone")))
    archive(local, plant, tmp_path / "spool", 1)
    failures = told_by("rul_wal_beyond_failures_total")
    bringer.look()
    assert "the line is gone" in told[-1]["error"]
    assert told_by("rul_wal_beyond_failures_total") == failures + 1
    waited = told_by("rul_wal_beyond_lag_seconds")
    assert waited == pytest.approx((datetime.now(UTC) - START).total_seconds(), abs=60)
    monkeypatch.setattr(obstore, "put", put)
    bringer.look()
    assert told_by("rul_wal_beyond_lag_seconds") == 0
    assert look(far, plant) == []
    asked: list[str] = []
    monkeypatch.setattr(obstore, "list", lambda *_, **__: asked.append("listed") or [])
    bringer.look()
    assert asked == []  # what is there is kept in mind


@pytest.mark.parametrize("spoilt", ["content", "object"])
def test_a_segment_that_is_damaged_here_lags_and_those_after_it_are_brought(
    local: FolderStore, far: RemoteStore, plant: Keys, tmp_path: Path, spoilt: str
):
    archive(local, plant, tmp_path / "spool", 3)
    first, *others = (wal.read(local, name, plant.verify) for name in wal.names(local))
    name = getattr(first, spoilt)
    flip(local, name)
    told: list[dict[str, Any]] = []
    bringer = LogBringer(local, far, plant.verify, tell=lambda **what: told.append(what))
    failures = told_by("rul_wal_beyond_failures_total")
    bringer.look()
    assert name in told[-1]["error"]
    assert wal.names(far) == [one.object for one in others]
    lagged = told_by("rul_wal_beyond_lag_seconds")
    bringer.look()
    assert told_by("rul_wal_beyond_lag_seconds") > lagged > 0
    assert told_by("rul_wal_beyond_failures_total") == failures + 2
    flip(local, name)
    bringer.look()
    assert len(wal.names(far)) == 3
    assert told_by("rul_wal_beyond_lag_seconds") == 0


def test_a_store_that_cannot_even_be_listed_lags_from_then_on(
    local: FolderStore, far: RemoteStore, plant: Keys, tmp_path: Path, monkeypatch
):
    archive(local, plant, tmp_path / "spool", 1)
    bringer = LogBringer(local, far, plant.verify)
    with monkeypatch.context() as broken:
        broken.setattr(obstore, "list", lambda *_, **__: _raise(OSError("nobody there")))
        bringer.look()
        bringer.look()
        assert 0 < told_by("rul_wal_beyond_lag_seconds") < 60
    assert far.sizes() == {}
    bringer.look()
    assert len(wal.names(far)) == 1
    assert told_by("rul_wal_beyond_lag_seconds") == 0


def test_after_a_line_was_exchanged_what_is_there_is_asked_until_it_is_told(
    local: FolderStore, s3_server: S3, place: str, plant: Keys, tmp_path: Path, monkeypatch
):
    monkeypatch.setenv("SSL_CERT_FILE", str(s3_server.authority))
    far = s3_server.store(place)
    archive(local, plant, tmp_path / "spool", 1)
    bringer = LogBringer(local, far, plant.verify)
    bringer.look()
    keep(local, plant, 0)  # so this is another line than the one that had no manifest
    (note,) = wal.names(far)
    s3_server.spoil(s3_server.files / place / note, None)
    names = wal.names
    with monkeypatch.context() as broken:
        broken.setattr(wal, "names", lambda _: _raise(Unavailable("nobody there")))
        bringer.look()
    assert names(far) == []
    bringer.look()
    assert names(far) == [note]


def test_the_log_is_not_brought_to_another_platform_s_place(
    local: FolderStore, far: RemoteStore, plant: Keys, tmp_path: Path
):
    other = FolderStore(tmp_path / "other")
    keep(other, plant, 5)
    bring(other, far, plant.verify)
    keep(local, plant, 0)
    archive(local, plant, tmp_path / "spool", 1)
    told: list[str] = []
    LogBringer(local, far, plant.verify, tell=lambda **what: told.append(what["error"])).look()
    assert "is another than the one here" in told[0]
    assert wal.names(far) == []


def test_the_log_of_another_line_that_took_its_place_is_not_brought_by_who_is_at_work(
    local: FolderStore, far: RemoteStore, plant: Keys, tmp_path: Path
):
    keep(local, plant, 0)
    archive(local, plant, tmp_path / "spool", 1)
    bring(local, far, plant.verify)
    told: list[dict[str, Any]] = []
    bringer = LogBringer(local, far, plant.verify, tell=lambda **what: told.append(what))
    bringer.look()
    assert told == []
    other = FolderStore(tmp_path / "other")
    keep(other, plant, 5)
    archive(other, plant, tmp_path / "spool", 7)
    before = wal.names(far)
    (local.root / LEFT).mkdir()
    shutil.rmtree(local.root / "wal")
    shutil.copytree(other.root / "wal", local.root / "wal")
    bringer.look()
    assert "is being exchanged" in told.pop()["error"]
    shutil.rmtree(local.root / "manifests")
    shutil.copytree(other.root / "manifests", local.root / "manifests")
    (local.root / LEFT).rmdir()
    for _ in range(2):
        bringer.look()
        assert "is another than the one here" in told.pop()["error"]
    assert told == []
    assert wal.names(far) == before


def test_lines_that_part_after_the_first_manifest_are_told_apart_by_who_is_at_work(
    local: FolderStore, far: RemoteStore, plant: Keys, tmp_path: Path
):
    keep(local, plant, 0)
    archive(local, plant, tmp_path / "spool", 1)
    told: list[dict[str, Any]] = []
    bringer = LogBringer(local, far, plant.verify, tell=lambda **what: told.append(what))
    bringer.look()
    other = FolderStore(tmp_path / "other")
    shutil.copytree(local.root, other.root)
    keep(local, plant, 1)
    keep(other, plant, 5)
    bring(local, far, plant.verify)
    bringer.look()
    assert [one for one in told if "error" in one] == []
    shutil.rmtree(local.root)
    shutil.copytree(other.root, local.root)
    bringer.look()
    assert "is another than the one here" in told[-1]["error"]


def test_what_remains_is_not_brought_once_another_line_takes_its_place(
    local: FolderStore,
    far: RemoteStore,
    plant: Keys,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
):
    keep(local, plant, 0)
    archive(local, plant, tmp_path / "spool", 3)
    told: list[dict[str, Any]] = []
    bringer = LogBringer(local, far, plant.verify, tell=lambda **what: told.append(what))
    bring_noted = offsite.bring_noted

    def leave(*arguments: Any) -> int:
        (local.root / LEFT).mkdir()
        return bring_noted(*arguments)

    def go_on(*arguments: Any) -> int:
        keep(local, plant, len(runs.names(local)))
        return bring_noted(*arguments)

    with monkeypatch.context() as patched:
        patched.setattr(offsite, "bring_noted", leave)
        bringer.look()
    assert "is being exchanged" in told.pop()["error"]
    assert wal.names(far) == []
    (local.root / LEFT).rmdir()
    with monkeypatch.context() as patched:
        patched.setattr(offsite, "bring_noted", go_on)
        bringer.look()
    assert len(wal.names(far)) == 3  # that the line goes on hinders nothing
    assert [one for one in told if "error" in one] == []


def test_while_the_first_run_ever_is_sealed_the_log_is_brought_all_the_same(
    local: FolderStore, far: RemoteStore, plant: Keys, tmp_path: Path, monkeypatch
):
    archive(local, plant, tmp_path / "spool", 3)
    told: list[dict[str, Any]] = []
    into(monkeypatch, "wal/", lambda: keep(local, plant, 0))
    LogBringer(local, far, plant.verify, tell=lambda **what: told.append(what)).look()
    assert [one for one in told if "error" in one] == []
    assert len(wal.names(far)) == 3


def into(patched: pytest.MonkeyPatch, below: str, do: Callable[[], object]) -> None:
    """Do something once, while an object below this is brought."""
    true, done = RemoteStore.bring, []

    def bring_one(self: RemoteStore, name: str, *arguments: Any) -> int:
        sent = true(self, name, *arguments)
        if name.startswith(below) and not done:
            done.append(name)
            do()
        return sent

    patched.setattr(RemoteStore, "bring", bring_one)


def test_the_content_of_one_line_never_gets_the_note_of_another(
    local: FolderStore, far: RemoteStore, plant: Keys, tmp_path: Path, monkeypatch
):
    archive(local, plant, tmp_path / "spool", 1)
    other = FolderStore(tmp_path / "other")
    (noted,) = (wal.read(local, name, plant.verify) for name in wal.names(local))
    archive(other, plant, tmp_path / "spool", 1)
    note = noted.object
    assert (other.root / note).read_bytes() != (local.root / note).read_bytes()
    into(
        monkeypatch,
        noted.content,
        lambda: shutil.copytree(other.root, local.root, dirs_exist_ok=True),
    )
    with pytest.raises(StoreError, match="is another than before what it tells of was brought"):
        bring(local, far, plant.verify)
    assert wal.names(far) == []


def test_what_has_a_segment_s_name_there_is_told_and_the_log_there_ends_whole_before_it(
    local: FolderStore, far: RemoteStore, s3: S3, place: str, plant: Keys, tmp_path: Path
):
    archive(local, plant, tmp_path / "spool", 3)
    first, second, third = (wal.read(local, name, plant.verify) for name in wal.names(local))
    told: list[dict[str, Any]] = []
    bringer = LogBringer(local, far, plant.verify, tell=lambda **what: told.append(what))
    for size, problem in (
        (7, "has 7 bytes where .*, and remove it there"),
        (second.note.sums.stored_bytes, "is not what was brought: .* remove it there"),
    ):
        s3.spoil(s3.files / place / second.content, bytes(size))
        bringer.look()
        assert re.search(problem, told[-1]["error"])
        with pytest.raises(StoreError, match=problem):
            bring(local, far, plant.verify)
        assert wal.names(far) == [first.object]
        assert told_by("rul_wal_beyond_lag_seconds") > 0
        s3.spoil(s3.files / place / second.content, None)
    bringer.look()
    assert wal.names(far) == [one.object for one in (first, second, third)]


def test_a_word_there_of_a_run_that_never_came_lets_no_other_of_its_number_count_as_let_go(
    local: FolderStore,
    far: RemoteStore,
    s3: S3,
    place: str,
    plant: Keys,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
):
    keep(local, plant, 0)
    other = FolderStore(tmp_path / "other")
    shutil.copytree(local.root, other.root)
    second = keep(local, plant, 1)
    keep(local, plant, 2)
    keep(other, plant, 5)
    runs.let_go(local, second, plant.maker.signing_key)

    def change_places() -> None:
        shutil.rmtree(local.root)
        shutil.copytree(other.root, local.root)

    into(monkeypatch, "gone/", change_places)
    with pytest.raises(StoreError, match="manifests/00000002 is another than before"):
        bring(local, far, plant.verify)
    other_word = "gone/00000002 is of another run than manifests/00000002 here; remove it there"
    with pytest.raises(StoreError, match=other_word):
        bring(local, far, plant.verify)
    (now,) = (one for one in runs.every(local, plant.verify) if one.manifest.number == 2)
    runs.let_go(local, now, plant.maker.signing_key)
    with pytest.raises(StoreError, match=other_word):  # also where this run went as well
        bring(local, far, plant.verify)
    (local.root / "gone" / "00000002").unlink()
    s3.spoil(s3.files / place / "gone" / "00000002", None)
    bring(local, far, plant.verify)
    assert [one.manifest.number for one in runs.there(far, plant.verify)] == [1, 2]


def test_of_a_run_that_was_let_go_there_before_it_came_there_comes_the_manifest_alone(
    local: FolderStore, far: RemoteStore, s3: S3, place: str, plant: Keys
):
    first = keep(local, plant, 0)
    offsite.let_expire(far, [first], plant.maker.signing_key)
    assert bring(local, far, plant.verify).runs == 1
    assert [*far.sizes()] == ["gone/00000001", first.object]
    keep(local, plant, 1)
    s3.spoil(s3.files / place / "gone" / "00000002", b"spoilt")
    with pytest.raises(
        StoreError, match=r"gone/00000002 cannot be read: .*; where it is damaged, remove it there"
    ):
        bring(local, far, plant.verify)
    s3.spoil(s3.files / place / "gone" / "00000002", None)
    assert bring(local, far, plant.verify).runs == 1
    assert [one.manifest.number for one in runs.there(far, plant.verify)] == [2]
    assert look(far, plant) == []


def test_no_manifest_of_another_line_that_takes_its_place_meanwhile_comes_after_those_of_this(
    local: FolderStore, far: RemoteStore, plant: Keys, tmp_path: Path, monkeypatch
):
    first = keep(local, plant, 0)
    bring(local, far, plant.verify)
    other = FolderStore(tmp_path / "other")
    for number in range(5, 9):
        keep(other, plant, number)
    keep(local, plant, 1)
    keep(local, plant, 2)

    def change_places() -> None:
        shutil.rmtree(local.root)
        shutil.copytree(other.root, local.root)

    into(monkeypatch, "runs/", change_places)
    with pytest.raises(StoreError, match="is another than the one here"):
        bring(local, far, plant.verify)
    assert [*runs.names(far)] == [first.object]
    (left,) = look(far, plant)  # a rule of the store removes that, which nobody promises
    assert "is of a run that was never finished" in left


def _raise(error: Exception) -> Any:
    raise error


# --- what expires beyond the machine
@pytest.fixture
def far_backups(
    s3: S3, place: str, engine: sa.Engine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Backups:
    """Of a platform whose runs stay for ten days there."""
    settings = BackupSettings(
        backup_offsite=f"s3://backups/{place}",
        backup_offsite_options=SecretStr(s3.options()),
        backup_offsite_days=10,
    )
    backups = Backups(tmp_path, settings, engine, None)
    backups.make_keys("plant")
    return backups


def keep_on_days(backups: Backups, days: Iterable[int]) -> datetime:
    """A run on each of these days, brought beyond; an hour after the last of them."""
    now = START
    for day in days:
        now = START + timedelta(days=day)
        run = Run(backups.store, maker_of(backups.keys_folder), now)
        run.keep("platform.dump", Kind.POSTGRES, io.BytesIO(b"%d" % day), {})
        run.seal({}, keys.verify_keys(backups.keys_folder / VERIFY_KEY), now)
    backups.bring()
    backups.confirm_clock(now)  # there was nothing on the days between
    return now + timedelta(hours=1)


def expire(backups: Backups, now: datetime) -> list[int]:
    """Give our word of those that may be gone; their numbers."""
    plan = backups.plan_beyond(now)
    backups.let_expire(plan.drop)
    return list(plan.drop)


def test_what_was_sealed_while_others_were_brought_is_not_said_to_be_beyond(
    far_backups: Backups, monkeypatch: pytest.MonkeyPatch
):
    keep_on_days(far_backups, [0])
    true = offsite.bring

    def brings_and_another_is_sealed(*args: Any) -> Any:
        brought = true(*args)
        monkeypatch.setattr(offsite, "bring", true)
        run = Run(far_backups.store, maker_of(far_backups.keys_folder), START)
        run.keep("platform.dump", Kind.POSTGRES, io.BytesIO(b"later"), {})
        run.seal({}, keys.verify_keys(far_backups.keys_folder / VERIFY_KEY), START)
        return brought

    monkeypatch.setattr(offsite, "bring", brings_and_another_is_sealed)
    far_backups.bring()
    assert len(runs.names(far_backups.store)) == 2
    assert [one.number for one in backup_rows.known(far_backups._engine, "off-site")] == [1]
    far_backups.bring()
    assert [one.number for one in backup_rows.known(far_backups._engine, "off-site")] == [1, 2]


def test_what_is_damaged_here_is_no_reason_not_to_say_what_was_brought(far_backups: Backups):
    keep_on_days(far_backups, [0])
    for day in (1, 2):
        now = START + timedelta(days=day)
        run = Run(far_backups.store, maker_of(far_backups.keys_folder), now)
        run.keep("platform.dump", Kind.POSTGRES, io.BytesIO(b"%d" % day), {})
        sealed = run.seal({}, keys.verify_keys(far_backups.keys_folder / VERIFY_KEY), now)
        if day == 1:
            (name,) = sealed.objects
            far_backups.store.remove(name)
    with pytest.raises(Spoilt, match=name):
        far_backups.bring()
    assert [one.number for one in backup_rows.known(far_backups._engine, "off-site")] == [1, 3]


def test_runs_that_are_old_may_be_gone_from_beyond_by_our_word_and_others_may_not(
    far_backups: Backups, s3: S3, place: str
):
    now = keep_on_days(far_backups, [0, 1, 12, 13])
    assert expire(far_backups, now) == [1, 2]
    assert [one.sealed.manifest.number for one in far_backups.there("off-site")] == [3, 4]
    assert far_backups.verify(Level.STORED, now, "off-site").findings == ()  # they are there still
    objects = sorted((s3.files / place / "runs").rglob("*.age"))
    for path in objects[:2]:  # as a rule of the store does
        s3.spoil(path, None)
    assert far_backups.verify(Level.STORED, now, "off-site").findings == ()
    s3.spoil(objects[2], None)
    (found,) = far_backups.verify(Level.EXISTS, now, "off-site").findings
    assert found.problem == "is missing"
    assert expire(far_backups, now) == []


def test_the_newest_and_those_that_drills_restored_from_there_never_expire(far_backups: Backups):
    keep_on_days(far_backups, [0, 1, 2, 30])
    now = START + timedelta(days=30, hours=1)
    for number in (1, 2, 3):
        proof = RestoreProof(number=number, proven_at=now, seconds=1.0, differences=())
        backup_rows.record_proof(far_backups._engine, "off-site", proof)
    assert expire(far_backups, now) == [1]


def test_by_a_clock_that_jumped_before_the_newest_run_nothing_expires_until_it_is_confirmed(
    far_backups: Backups,
):
    keep_on_days(far_backups, [0, 1])
    now = START + timedelta(days=60)
    run = Run(far_backups.store, maker_of(far_backups.keys_folder), now)
    run.keep("platform.dump", Kind.POSTGRES, io.BytesIO(b"60"), {})
    run.seal({}, keys.verify_keys(far_backups.keys_folder / VERIFY_KEY), now)
    far_backups.bring()
    with pytest.raises(StoreError, match="the clock was set forward; nothing is let go"):
        expire(far_backups, now)
    assert len(far_backups.there("off-site")) == 3
    far_backups.confirm_clock(now)
    assert expire(far_backups, now) == [1, 2]


def test_while_the_clock_cannot_be_trusted_nothing_expires(far_backups: Backups):
    keep_on_days(far_backups, [0, 1])
    with pytest.raises(StoreError, match="the clock was set forward"):
        expire(far_backups, START + timedelta(days=100))
    assert len(far_backups.there("off-site")) == 2


def test_all_that_is_done_there_needs_a_key_that_may_put_get_and_list_and_no_more(
    far_backups: Backups,
    far: RemoteStore,
    s3: S3,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
):
    """The fixture ``s3`` sees to it; here it is that all of it is done."""
    monkeypatch.setattr(remote, "PART_BYTES", 1000)
    before, put = len(s3.asked()), obstore.put
    folder = far_backups.keys_folder
    verify_keys, maker = keys.verify_keys(folder / VERIFY_KEY), maker_of(folder)
    run = Run(far_backups.store, maker, START)
    run.keep("platform.dump", Kind.POSTGRES, io.BytesIO(random.Random(0).randbytes(5000)), {})
    run.seal({}, verify_keys, START)
    with monkeypatch.context() as broken:
        names: list[str] = []

        def breaks(objects: Any, path: str, *args: Any, **kwargs: Any) -> Any:
            if len(names) == 3:
                raise OSError("the line is gone")
            names.append(path)
            return put(objects, path, *args, **kwargs)

        broken.setattr(obstore, "put", breaks)
        with pytest.raises(Unavailable):
            far_backups.bring()
    keep_on_days(far_backups, [1, 12])
    log = wal.ClusterLog(far_backups.store, maker, verify_keys, "7", SEGMENT_BYTES)
    segment = tmp_path / str(wal.Segment(1, 1, SEGMENT_BYTES))
    segment.write_bytes(bytes(SEGMENT_BYTES))
    log.take(segment, now=START)
    LogBringer(far_backups.store, far, verify_keys).look()
    now = keep_on_days(far_backups, [13])
    looked = len(s3.asked())
    assert far_backups.verify(Level.CONTENT, now, "off-site").findings == ()
    far_backups.read_again(1.0, "", ())
    export(far, far_backups.find(None, "off-site"), verify_keys, tmp_path / "a.tar", with_log=True)
    # Whoever only reads needs not even put: the drill's key is one that may not.
    assert [told for told in s3.asked()[looked:] if told.startswith(s3_module.PUT)] == []
    assert expire(far_backups, now) == [1, 2]
    asked = s3.asked()[before:]
    for what in ("runs/", "wal/7/", "manifests/", "gone/"):
        assert any(told.startswith("CREATE OBJECT: ") and what in told for told in asked)


def test_a_removal_and_a_second_writing_would_be_seen(
    s3_server: S3, place: str, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setenv("SSL_CERT_FILE", str(s3_server.authority))
    before, objects = len(s3_server.asked()), s3_server.store(place)._objects

    def seen() -> list[str]:
        return s3_module.beyond_the_key(s3_server.asked()[before:])

    obstore.put(objects, "a", b"1")
    assert seen() == []
    obstore.put(objects, "a", b"2")
    assert seen() == [f"CREATE OBJECT: backups {place}/a"]
    obstore.copy(objects, "a", "b")
    assert len(seen()) == 2
    obstore.delete(objects, "a")
    assert seen()[1].startswith("delete")


def test_what_has_not_changed_is_kept_anew_after_a_week(
    local: FolderStore, plant: Keys, tmp_path: Path
):
    """So what a run promises is never much older than the run."""
    (tmp_path / "models").mkdir()
    (tmp_path / "models" / "model").write_text("unchanged")
    kept_by: list[str] = []
    for day in range(20):
        run = Run(local, plant.maker, START + timedelta(days=day))
        earlier = runs.newest_there(local, plant.verify)
        kept = snapshots.keep_models(run, tmp_path, earlier)
        run.seal({}, plant.verify, run.started_at)
        kept_by.append(kept.run or run.name)
        begun = runs.started_at(kept_by[-1])
        assert begun is not None
        assert run.started_at - begun < timedelta(days=7)
    assert len({*kept_by}) == 3


def test_what_is_not_there_as_it_was_written_is_kept_anew(
    local: FolderStore, plant: Keys, tmp_path: Path
):
    (tmp_path / "models").mkdir()
    (tmp_path / "models" / "model").write_text("unchanged")

    def keep(day: int) -> Sealed:
        run = Run(local, plant.maker, START + timedelta(days=day))
        snapshots.keep_models(run, tmp_path, runs.newest_there(local, plant.verify))
        return run.seal({}, plant.verify, run.started_at)

    first = keep(0)
    assert keep(1).objects.keys() == first.objects.keys()
    (name,) = first.objects
    path = local.root / name
    path.write_bytes(path.read_bytes()[:-1])
    second = keep(2)
    assert second.objects.keys().isdisjoint(first.objects)
    flip(local, next(iter(second.objects)))
    third = keep(3)
    assert third.objects.keys().isdisjoint(second.objects)
    local.remove(next(iter(third.objects)))
    assert keep(4).objects.keys().isdisjoint(third.objects)


def test_what_was_kept_while_the_clock_was_ahead_is_kept_anew(
    local: FolderStore, plant: Keys, tmp_path: Path
):
    (tmp_path / "models").mkdir()
    (tmp_path / "models" / "model").write_text("unchanged")
    kept_by: list[str] = []
    for now in (START, START + timedelta(days=60), START + timedelta(hours=1)):
        run = Run(local, plant.maker, now)
        kept = snapshots.keep_models(run, tmp_path, runs.newest_there(local, plant.verify))
        run.seal({}, plant.verify, now)
        kept_by.append(kept.run)
    assert kept_by == ["", "", ""]


def test_many_are_read_in_order_and_the_first_that_cannot_be_is_told():
    assert each(lambda name: name * 2, [str(n) for n in range(100)]) == [
        str(n) * 2 for n in range(100)
    ]

    def read(name: str) -> str:
        if int(name) % 3 == 2:
            raise StoreError(f"{name} is damaged")
        return name

    with pytest.raises(StoreError, match=r"^2 is damaged"):
        each(read, [str(n) for n in range(100)])


def test_of_many_only_a_few_are_read_before_their_turn_and_none_once_whoever_takes_them_stops(
    monkeypatch: pytest.MonkeyPatch,
):
    begun, asked, told_to_stop = [], [], threading.Event()

    class Readers(ThreadPoolExecutor):
        def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:
            super().shutdown(wait=False, cancel_futures=cancel_futures)
            told_to_stop.set()
            super().shutdown(wait)

    def read(name: str) -> None:
        begun.append(name)
        assert name == "0" or told_to_stop.wait(60)

    monkeypatch.setattr(stores, "ThreadPoolExecutor", Readers)
    taken = in_turn(read, (asked.append(name) or name for name in map(str, range(1000))))
    next(taken)
    taken.close()
    assert len(asked) == 2 * READERS + 1
    assert 1 <= len(begun) <= 1 + READERS  # the first, and those at work as it stopped
