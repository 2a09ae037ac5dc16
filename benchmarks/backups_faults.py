"""Damage to a store of backups, and whether it is found.

What belongs here: each kind of fault, injected into every kind of object. What does not: what
``rul backup verify`` looks at (``rul_backup.verification``).
"""

import random
import shutil
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from benchmarks.serving_stage import FLEET, Stage
from rul_backup import runs
from rul_backup.keeping import Backups
from rul_backup.reading import BackupSettings, reading_keys_of
from rul_backup.stores import FolderStore
from rul_backup.verification import Level, verify
from rul_store import champions


def injected(count: int, stage: Stage, backups: Backups, folder: Path) -> dict[str, Any]:
    """Every kind of fault, in every kind of object, one at a time; each must be named.

    Raises:
        RuntimeError: A fault changed nothing, so that it could not be found.
    """
    chance = random.Random(20)  # noqa: S311 - which bit is no secret
    for version in (0, 0, 0, 1, 0):  # where the models change, they are kept anew
        if champions.current_all(stage.engine)[FLEET].version != stage.versions[version]:
            stage.promote(stage.versions[version])
        backups.make(datetime.now(UTC))
    now, whole = datetime.now(UTC), backups.store
    keys = reading_keys_of(stage.root, BackupSettings())
    first, second, *_ = runs.there(whole, keys.verify_keys())
    backups.let_go([first.manifest.number, second.manifest.number], now)
    every = runs.every(whole, keys.verify_keys())
    known, names = [one.known for one in every], sorted(whole.sizes())
    # Without the word that a run was let go, what it promised is missing.
    promised = {
        f"{runs.GONE}/{one.manifest.number:08d}": one.objects.keys() - {*names} for one in every
    }
    missed, kinds = [], sorted({_class_of(name) for name in names})
    for number in range(count):
        fault, kind = FAULTS[number % len(FAULTS)], kinds[number // len(FAULTS) % len(kinds)]
        shutil.rmtree(folder, ignore_errors=True)
        shutil.copytree(whole.root, folder)
        chosen = chance.sample([name for name in names if _class_of(name) == kind], 2)
        touched = fault(folder, *chosen, chance)
        if fault is _delete and chosen[0] in promised:
            touched = set(promised[chosen[0]])
        if not touched:
            raise RuntimeError(f"{fault.__name__[1:]} of {chosen[0]} changed nothing")
        found = verify(
            FolderStore(folder), keys.verify_keys(), Level.CONTENT,
            now=now + timedelta(hours=1), known=known, identities=keys.identities(),
        )  # fmt: skip
        if touched - {one.object for one in found.findings}:
            missed.append(f"{fault.__name__[1:]} {sorted(touched)}")
    return {
        "injected": count, "found": count - len(missed), "missed": missed,
        "kinds": kinds,
    }  # fmt: skip


def _class_of(name: str) -> str:
    folder, _, rest = name.partition("/")
    return rest.rpartition("/")[2] if folder == runs.RUNS else folder


# Each takes the store's folder and two objects of a kind, and gives the objects that it spoilt.
def _flip(folder: Path, name: str, _: str, chance: random.Random) -> set[str]:
    content = bytearray((folder / name).read_bytes())
    content[chance.randrange(len(content))] ^= 1 << chance.randrange(8)
    (folder / name).write_bytes(content)
    return {name}


def _truncate(folder: Path, name: str, _: str, chance: random.Random) -> set[str]:
    content = (folder / name).read_bytes()
    (folder / name).write_bytes(content[: chance.randrange(len(content))])
    return {name}


def _lengthen(folder: Path, name: str, _: str, chance: random.Random) -> set[str]:
    with (folder / name).open("ab") as file:
        file.write(chance.randbytes(chance.randint(1, 9)))
    return {name}


def _delete(folder: Path, name: str, _: str, __: random.Random) -> set[str]:
    (folder / name).unlink()
    return {name}


def _swap(folder: Path, name: str, other: str, _: random.Random) -> set[str]:
    one, two = (folder / name).read_bytes(), (folder / other).read_bytes()
    (folder / name).write_bytes(two)
    (folder / other).write_bytes(one)
    return {name, other} if one != two else set()


def _replay(folder: Path, name: str, other: str, _: random.Random) -> set[str]:
    """An older one in the place of a newer one."""
    older, newer = sorted((name, other))
    content = (folder / older).read_bytes()
    is_same = content == (folder / newer).read_bytes()
    (folder / newer).write_bytes(content)
    return set() if is_same else {newer}


def _duplicate(folder: Path, name: str, _: str, __: random.Random) -> set[str]:
    copy = f"{name}-copy"
    shutil.copyfile(folder / name, folder / copy)
    return {copy}


FAULTS = (_flip, _truncate, _lengthen, _delete, _swap, _replay, _duplicate)
