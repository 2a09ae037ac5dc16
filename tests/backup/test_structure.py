"""What was broken before it was sealed is found by who reads it as what it shall be."""

import errno
import io
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
import redis
import sqlalchemy as sa

from rul_backup import snapshots, verification
from rul_backup.manifest import Kind
from rul_backup.runs import Run, Sealed
from rul_backup.sealing import unseal
from rul_backup.stores import FolderStore
from rul_backup.verification import Finding, Level, verify
from rul_core.errors import SettingsError, StoreError
from rul_store.database import begin

from .conftest import Keys

NOW = datetime(2026, 11, 28, tzinfo=UTC)
BROKEN: dict[str, Callable[[bytes], bytes]] = {
    "half": lambda content: content[: len(content) // 2],
    "but its last byte": lambda content: content[:-1],
    "nothing": lambda _: b"",
    "something else": lambda content: b"x" * len(content),
}


@pytest.fixture
def store(tmp_path: Path) -> FolderStore:
    return FolderStore(tmp_path / "backups")


@pytest.fixture
def sound(
    store: FolderStore,
    plant: Keys,
    engine: sa.Engine,
    database_url: str,
    redis_url: str,
    tmp_path: Path,
) -> Sealed:
    with begin(engine) as connection:
        connection.execute(sa.text("INSERT INTO units (fleet, unit) VALUES ('pumps', 'a')"))
    with redis.Redis.from_url(redis_url) as client:
        client.mset({f"key-{number}": "x" * 100 for number in range(50)})
    for name in ("a", "b", "c"):
        path = tmp_path / "models" / "pumps" / "v1" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(name.encode() * 3000)
    run = Run(store, plant.maker, NOW)
    snapshots.keep_database(run, database_url)
    snapshots.keep_redis(run, redis_url)
    snapshots.keep_models(run, tmp_path)
    return run.seal({}, plant.verify, NOW)


def found(store: FolderStore, plant: Keys, level: Level) -> tuple[Finding, ...]:
    looked = verify(store, plant.verify, level, now=NOW, identities=plant.identities)
    return looked.findings


def kept_otherwise(
    store: FolderStore, plant: Keys, sound: Sealed, change: Callable[[Kind, bytes], bytes]
) -> Sealed:
    """A run that kept the same things changed, as if they had been so."""
    run = Run(store, plant.maker, NOW)
    for artefact in sound.manifest.artefacts:
        plain = io.BytesIO()
        with store.reading(sound.object_of(artefact)) as stored:
            unseal(stored, plain, plant.identities)
        content = change(artefact.kind, plain.getvalue())
        run.keep(artefact.name, artefact.kind, io.BytesIO(content), artefact.facts)
    return run.seal({}, plant.verify, NOW)


def test_what_is_sound_is_sound_to_its_end(store: FolderStore, plant: Keys, sound: Sealed):
    assert found(store, plant, Level.STRUCTURE) == ()


@pytest.mark.parametrize("broken", BROKEN)
def test_what_was_sealed_broken_is_found_at_this_level_alone(
    store: FolderStore, plant: Keys, sound: Sealed, broken: str
):
    bad = kept_otherwise(store, plant, sound, lambda _, content: BROKEN[broken](content))
    assert found(store, plant, Level.CONTENT) == ()
    told = {finding.object: finding.problem for finding in found(store, plant, Level.STRUCTURE)}
    assert told.keys() == bad.objects.keys()
    for name, program in (("dump", "pg_restore"), ("rdb", "redis-check-rdb"), ("tar", "tar")):
        (problem,) = [told[each] for each in told if name in each]
        assert program in problem


@pytest.mark.parametrize("broken", BROKEN)
def test_without_a_program_of_redis_its_ends_tell(
    store: FolderStore, plant: Keys, sound: Sealed, broken: str, monkeypatch: pytest.MonkeyPatch
):
    def nowhere() -> str:
        raise SettingsError("redis-server is not here")

    monkeypatch.setattr("rul_backup.redis_copy.program", nowhere)
    monkeypatch.setattr("rul_backup.structure.shutil.which", lambda _: None)
    assert found(store, plant, Level.STRUCTURE) == ()

    def change(kind: Kind, content: bytes) -> bytes:
        return BROKEN[broken](content) if kind is Kind.REDIS else content

    kept_otherwise(store, plant, sound, change)
    (finding,) = found(store, plant, Level.STRUCTURE)
    assert "redis.rdb" in finding.object
    assert "is no whole RDB file" in finding.problem


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda content: content[:512] + b"x" * 512 + content[1024:], ""),
        (lambda content: content[:3584] + b"\0" * 1024, "is a tar of 1 files where 3 were kept"),
        (lambda content: content[:3584], "does not end after its 1 files"),
        (lambda content: content[:3584] + b"x" * 512 + content[4096:], "not end after its 1 files"),
    ],
)
def test_a_tar_that_ends_between_two_files_is_not_whole(
    store: FolderStore, plant: Keys, sound: Sealed, change: Callable[[bytes], bytes], said: str
):
    kept_otherwise(
        store,
        plant,
        sound,
        lambda kind, content: change(content) if kind is Kind.MODELS else content,
    )
    problems = [finding.problem for finding in found(store, plant, Level.STRUCTURE)]
    assert len(problems) == bool(said)
    assert not problems or said in problems[0]


def test_a_full_disk_where_it_is_looked_at_is_no_damage(
    store: FolderStore, plant: Keys, sound: Sealed, monkeypatch: pytest.MonkeyPatch
):
    class Full(io.BytesIO):
        def __init__(self, **_: Any) -> None:
            super().__init__()

        def write(self, _: Any) -> int:
            raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(verification, "TemporaryFile", Full)
    with pytest.raises(StoreError, match=r"is too small to look into runs/.*name a larger folder"):
        found(store, plant, Level.STRUCTURE)
