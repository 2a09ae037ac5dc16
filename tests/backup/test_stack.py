"""What the container stack has is kept while its owners write to it and remove from it."""

import errno
import io
import os
import re
import shutil
import sqlite3
import tarfile
import threading
from collections.abc import Callable, Iterator
from contextlib import closing
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from rul_backup import drill, stack, verification
from rul_backup.manifest import Kind
from rul_backup.runs import Run, Sealed
from rul_backup.stores import FolderStore
from rul_backup.verification import Level
from rul_core.errors import StoreError

from .conftest import Keys

NOW = datetime(2026, 11, 28, tzinfo=UTC)
OLD, NEW = "01KB0000000000000000000000", "01KB1111111111111111111111"


@pytest.fixture
def store(tmp_path: Path) -> FolderStore:
    return FolderStore(tmp_path / "backups")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """As the volumes of a stack are mounted."""
    root = tmp_path / "stack"
    for name, content in {
        "configuration/settings.env": "STACK_HTTP_PORT=8080\n",
        "configuration/docker/redis/redis.conf": "appendonly yes\n",
        "dagster_logs/containers/take_in-1.log": "RUN_SUCCESS\n",
        "dagster_logs/8f1c/compute_logs/a.out": "said\n" * 5000,
        "grafana/plugins/clock/module.js": "tick",
        "grafana/png/sent.png": "a picture",
        f"prometheus/{NEW}.tmp-for-creation/index": "half of an index",
        "prometheus/wal/00000001": "what was told in the last two hours",
        "prometheus/01KB2222222222222222222222/chunks/000001": "no block without the rest",
        **{
            f"prometheus/{block}/{name}": f"{name} of {block}"
            for block in (OLD, NEW)
            for name in ("meta.json", "index", "tombstones", "chunks/000001")
        },
    }.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(content)
    (root / "dagster_logs" / "newest").symlink_to("containers/take_in-1.log")
    with closing(grafana(root)) as database:
        database.execute("CREATE TABLE dashboard (id int, title text)")
        database.execute("INSERT INTO dashboard VALUES (1, 'Mine')")
        database.commit()
    return root


def grafana(root: Path) -> sqlite3.Connection:
    return sqlite3.connect(root / "grafana" / "grafana.db", timeout=20)


def kept(store: FolderStore, plant: Keys, folder: Path) -> Sealed:
    run = Run(store, plant.maker, NOW)
    stack.keep_stack(run, folder)
    return run.seal({}, plant.verify, NOW)


def facts_of(run: Sealed) -> dict[str, Any]:
    (artefact,) = run.manifest.artefacts
    return artefact.facts


def back(store: FolderStore, plant: Keys, run: Sealed, into: Path) -> dict[str, bytes]:
    """What comes back, by its path."""
    drill.restore_files(store, run, into, plant.identities, drill.OF_THE_STACK)
    return {
        path.relative_to(into).as_posix(): path.read_bytes()
        for path in into.rglob("*")
        if path.is_file()
    }


def problems(store: FolderStore, plant: Keys) -> list[str]:
    looked = verification.verify(
        store, plant.verify, Level.STRUCTURE, now=NOW, identities=plant.identities
    )
    return [finding.problem for finding in looked.findings]


def test_what_the_stack_has_comes_back_but_for_what_is_half_written(
    store: FolderStore, plant: Keys, folder: Path, tmp_path: Path
):
    run = kept(store, plant, folder)
    assert facts_of(run) == {
        "files": 14,
        "sources": {"configuration": 2, "dagster_logs": 2, "grafana": 2, "prometheus": 8},
    }
    found = back(store, plant, run, tmp_path / "back")
    with closing(sqlite3.connect(tmp_path / "back" / "grafana" / "grafana.db")) as restored:
        assert restored.execute("SELECT * FROM dashboard").fetchall() == [(1, "Mine")]
    assert found.pop("grafana/grafana.db")
    assert found == {
        name: (folder / name).read_bytes()
        for name in (
            "configuration/settings.env", "configuration/docker/redis/redis.conf",
            "dagster_logs/containers/take_in-1.log", "dagster_logs/8f1c/compute_logs/a.out",
            "grafana/plugins/clock/module.js",
            *(
                f"prometheus/{block}/{name}"
                for block in (OLD, NEW)
                for name in ("meta.json", "index", "tombstones", "chunks/000001")
            ),
        )
    }  # fmt: skip
    assert problems(store, plant) == []


def test_the_same_content_gives_the_same_bytes_whenever_it_was_written(
    store: FolderStore, plant: Keys, folder: Path
):
    first = kept(store, plant, folder).manifest.artefacts[0].sums
    for path in folder.rglob("*"):
        if path.is_file() and not path.is_symlink():
            shutil.copyfile(path, path.with_name("copied"))
            path.with_name("copied").rename(path)
    second = kept(store, plant, folder).manifest.artefacts[0].sums
    assert first.plain_sha256 == second.plain_sha256
    assert first.stored_sha256 != second.stored_sha256


def test_where_a_source_is_not_there_the_others_are_kept(
    store: FolderStore, plant: Keys, folder: Path
):
    shutil.rmtree(folder / "grafana")
    (folder / "prometheus").rename(folder / "elsewhere")
    (folder / "prometheus").mkdir()
    assert facts_of(kept(store, plant, folder))["sources"] == {
        "configuration": 2, "dagster_logs": 2, "prometheus": 0,
    }  # fmt: skip
    assert problems(store, plant) == []


def test_a_folder_without_any_source_is_an_error(store: FolderStore, plant: Keys, tmp_path: Path):
    with pytest.raises(StoreError, match=r"nowhere \(RUL_BACKUP_STACK\) has none of the folders"):
        stack.keep_stack(Run(store, plant.maker, NOW), tmp_path / "nowhere")


def test_grafana_s_database_is_of_one_moment_while_it_is_written_to(
    store: FolderStore, plant: Keys, folder: Path, tmp_path: Path
):
    stop, written = threading.Event(), threading.Event()

    def write() -> None:
        with closing(grafana(folder)) as database:
            number = 2
            while not stop.is_set():
                with database:
                    for _ in range(2):  # both or none
                        database.execute("INSERT INTO dashboard VALUES (?, ?)", (number, "x" * 500))
                number += 1
                written.set()

    writer = threading.Thread(target=write)
    writer.start()
    try:
        assert written.wait(20)
        runs = [kept(store, plant, folder) for _ in range(5)]
    finally:
        stop.set()
        writer.join()
    for number, run in enumerate(runs):
        back(store, plant, run, tmp_path / str(number))
        with closing(sqlite3.connect(tmp_path / str(number) / "grafana" / "grafana.db")) as found:
            halves = "SELECT id FROM dashboard GROUP BY id HAVING count(*) <> 2 AND id > 1"
            assert found.execute(halves).fetchall() == []
            assert found.execute("SELECT count(*) FROM dashboard").fetchone() > (1,)


def test_a_database_that_is_held_for_too_long_is_told(
    store: FolderStore, plant: Keys, folder: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(stack, "BUSY_SECONDS", 0.3)
    with closing(grafana(folder)) as database:
        database.execute("BEGIN EXCLUSIVE")
        with pytest.raises(StoreError, match=r"stack\.tar cannot be kept: .*grafana\.db was writ"):
            kept(store, plant, folder)
    assert store.sizes() == {}
    assert kept(store, plant, folder).manifest.number == 1


def test_a_database_that_is_none_is_told(store: FolderStore, plant: Keys, folder: Path):
    (folder / "grafana" / "grafana.db").write_bytes(b"x" * 5000)
    with pytest.raises(StoreError, match=r"grafana\.db cannot be copied: file is not a database"):
        kept(store, plant, folder)
    assert store.sizes() == {}


def before_each(monkeypatch: pytest.MonkeyPatch, name: str, happens: Callable[[Any], None]) -> None:
    """Let something happen whenever a function of the module is about to be at work."""
    true = getattr(stack, name)

    def with_it(first: Any, *rest: Any) -> Any:
        happens(first)
        return true(first, *rest)

    monkeypatch.setattr(stack, name, with_it)


@pytest.mark.parametrize("at", ["meta.json", "index", "000001"])
def test_a_block_that_goes_before_its_turn_is_left_out_whole(
    store: FolderStore, plant: Keys, folder: Path, monkeypatch: pytest.MonkeyPatch, at: str
):
    def go(path: Path) -> None:
        if OLD in path.parts and path.name == at:  # Prometheus renames it, then removes it
            (folder / "prometheus" / OLD).rename(folder / "prometheus" / f"{OLD}.tmp-for-deletion")

    before_each(monkeypatch, "_opened", go)
    run = kept(store, plant, folder)
    assert facts_of(run)["sources"]["prometheus"] == 4
    assert problems(store, plant) == []


def test_blocks_that_become_one_meanwhile_are_kept_as_that(
    store: FolderStore, plant: Keys, folder: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
):
    prometheus, larger = folder / "prometheus", "01KB3333333333333333333333"

    def become_one(path: Path) -> None:
        if path == prometheus / OLD / "meta.json":
            (prometheus / OLD).rename(prometheus / larger)
            shutil.rmtree(prometheus / NEW)

    before_each(monkeypatch, "_opened", become_one)
    found = back(store, plant, kept(store, plant, folder), tmp_path / "back")
    assert {name.split("/")[1] for name in found if name.startswith("prometheus")} == {larger}
    assert found[f"prometheus/{larger}/index"] == f"index of {OLD}".encode()
    assert problems(store, plant) == []


def test_a_block_that_goes_while_it_is_read_is_kept_whole(
    store: FolderStore, plant: Keys, folder: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
):
    def go(name: str) -> None:
        if name == f"prometheus/{OLD}/index":
            shutil.rmtree(folder / "prometheus" / OLD)

    before_each(monkeypatch, "tar_member", go)
    run = kept(store, plant, folder)
    assert not (folder / "prometheus" / OLD).exists()
    found = back(store, plant, run, tmp_path / "back")
    assert found[f"prometheus/{OLD}/tombstones"] == f"tombstones of {OLD}".encode()
    assert facts_of(run)["sources"]["prometheus"] == 8
    assert problems(store, plant) == []


def test_a_log_that_goes_meanwhile_is_left_out_and_one_that_grows_is_kept_as_it_was(
    store: FolderStore, plant: Keys, folder: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
):
    log = folder / "dagster_logs" / "containers" / "take_in-1.log"

    def go(path: Path) -> None:
        if path.name == "a.out":
            path.unlink()

    def grow(name: str) -> None:
        if name.endswith(log.name):
            with log.open("a") as file:
                file.write("more\n")

    before_each(monkeypatch, "_opened", go)
    real = stack.tar_member

    def growing(name: str, file: Any) -> Iterator[bytes]:
        chunks = real(name, file)
        yield next(chunks)
        grow(name)
        yield from chunks

    monkeypatch.setattr(stack, "tar_member", growing)
    run = kept(store, plant, folder)
    assert facts_of(run)["sources"]["dagster_logs"] == 1
    found = back(store, plant, run, tmp_path / "back")
    assert found["dagster_logs/containers/take_in-1.log"] == b"RUN_SUCCESS\n"
    assert log.read_text() == "RUN_SUCCESS\nmore\n"
    assert problems(store, plant) == []


def test_settings_that_are_written_anew_meanwhile_are_not_kept_in_half(
    store: FolderStore, plant: Keys, folder: Path, monkeypatch: pytest.MonkeyPatch
):
    def go(path: Path) -> None:
        if path.name == "redis.conf":
            path.unlink()

    before_each(monkeypatch, "_opened", go)
    with pytest.raises(StoreError, match=r"stack\.tar cannot be kept: .*redis\.conf"):
        kept(store, plant, folder)
    assert store.sizes() == {}


@pytest.mark.parametrize(
    ("owner", "function", "name"),
    [
        (Path, "open", "grafana/grafana.db"),
        (Path, "open", f"prometheus/{OLD}/index"),
        (os, "scandir", f"prometheus/{OLD}/chunks"),
        (os, "scandir", "dagster_logs/containers"),
    ],
)
def test_what_cannot_be_read_is_named_with_the_remedy(
    store: FolderStore,
    plant: Keys,
    folder: Path,
    monkeypatch: pytest.MonkeyPatch,
    owner: Any,
    function: str,
    name: str,
):
    true = getattr(owner, function)

    def refused(path: Any, *args: Any, **kwargs: Any) -> Any:
        if str(path) == str(folder / name):
            raise PermissionError(errno.EACCES, "Permission denied", str(path))
        return true(path, *args, **kwargs)

    monkeypatch.setattr(owner, function, refused)
    told = rf"{name} cannot be read by user \d+ of the groups .*let one of these read it"
    with pytest.raises(StoreError, match=told) as refusal:
        kept(store, plant, folder)
    (page,) = re.findall(r"docs/runbook.md, (\w+)\)", str(refusal.value))
    runbook = Path(__file__).parents[2] / "docs" / "runbook.md"
    (section,) = re.findall(rf"^## {page}\n(.*?)(?=^## )", runbook.read_text(), re.M | re.S)
    assert "cannot be read by user" in section
    assert store.sizes() == {}


def tar_of(files: dict[str, bytes]) -> io.BytesIO:
    made = io.BytesIO()
    with tarfile.open(fileobj=made, mode="w:") as archive:
        for name, content in files.items():
            entry = tarfile.TarInfo(name)
            entry.size = len(content)
            archive.addfile(entry, io.BytesIO(content))
    # Python fills its last record, which whoever keeps a tar does not.
    size = sum(512 + -(-len(content) // 512) * 512 for content in files.values())
    return io.BytesIO(made.getvalue()[: size + 1024])


@pytest.mark.parametrize(
    ("files", "told"),
    [
        ({"grafana/grafana.db": b"x" * 5000}, "damaged grafana/grafana.db: file is not a database"),
        ({"grafana/grafana.db": b"broken"}, "damaged grafana/grafana.db: *** in database main ***"),
        ({f"prometheus/{OLD}/meta.json": b"{}"}, f"no index of Prometheus' block {OLD}"),
        ({f"prometheus/{OLD}/index": b""}, f"no meta.json of Prometheus' block {OLD}"),
        ({"grafana/a": b""}, "has 0 files of dagster_logs where 1 were kept"),
    ],
)
def test_what_is_whole_and_yet_not_what_it_shall_be_is_found(
    store: FolderStore, plant: Keys, folder: Path, files: dict[str, bytes], told: str
):
    if files.get("grafana/grafana.db") == b"broken":
        content = bytearray((folder / "grafana" / "grafana.db").read_bytes())
        content[4096:] = b"\xff" * len(content[4096:])
        files = {"grafana/grafana.db": bytes(content)}
    run = Run(store, plant.maker, NOW)
    sources = {"dagster_logs": 1} if "where 1" in told else {}
    facts = {"files": len(files), "sources": sources}
    run.keep(stack.FILES, Kind.STACK, tar_of(files), facts)
    sealed = run.seal({}, plant.verify, NOW)
    (found,) = problems(store, plant)
    assert told in found
    (proof,) = drill.prove_stack(store, sealed, plant.identities)
    assert proof.differences == (f"{stack.FILES} {found}",)


def test_a_run_of_before_there_was_a_stack_proves_as_ever(store: FolderStore, plant: Keys):
    run = Run(store, plant.maker, NOW)
    run.keep("redis.rdb", Kind.REDIS, io.BytesIO(b"REDIS"), {})
    assert drill.prove_stack(store, run.seal({}, plant.verify, NOW), plant.identities) == []
