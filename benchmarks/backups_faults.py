"""Damage to a store of backups, and whether it is found.

What belongs here: each class of fault, injected into every kind of object. What does not: what
``rul backup verify`` looks at (``rul_backup.verification``).

A fault is found when every object that it spoilt is named:

    flip, truncate, lengthen    the object
    delete                      the object; of our word that a run was let go, all that the run
                                kept; of our word that a manifest is given up, that manifest
    swap                        both
    replay                      the newer of two, in whose place the older is put; that stays whole
    duplicate                   the copy
    reorder                     all of a kind, each of which is put in the place of the next
"""

import os
import random
import shutil
from collections import Counter, defaultdict
from datetime import timedelta
from pathlib import Path
from typing import Any, NamedTuple

from benchmarks.backups_stage import Keeping, now, rul
from benchmarks.serving_stage import FLEET, Stage
from rul_backup import mending, runs, wal
from rul_backup.runs import Sealed
from rul_backup.stores import FolderStore
from rul_backup.verification import Level, verify
from rul_store import champions

RUNS, GOING, LOST = 10, 3, 3
"""How many are made, how many of them are let go, and of how many the manifests are lost."""
SEALED_SECONDS = 2.0
KINDS = {
    *(f"{name}.zst.age" for name in ("platform.dump", "redis.rdb", "models.tar", "base.tar")),
    *(f"{name}.zst.age" for name in ("dagster.dump", "stack.tar")),
    runs.MANIFESTS, runs.GONE, runs.LOST, "segments", "notes",
}  # fmt: skip


class Faults(NamedTuple):
    """How many are injected."""

    each: int
    """Of every class into every kind."""
    by_command: int
    """How many of a class's kinds are looked at by the command too: every so manieth."""


def injected(asked: Faults, stage: Stage, keeping: Keeping, cores: set[int]) -> dict[str, Any]:
    """Every class of fault, in every kind of object, one at a time; each must be named.

    Raises:
        RuntimeError: A kind of object is missing, whole objects are called damaged, or a fault
            changed nothing, so that it could not be found.
    """
    chance = random.Random(20)  # noqa: S311 - which bit is no secret
    every, promised = _filled(stage, keeping, cores)
    whole, folder = keeping.backups.store, keeping.folder / "spoilt"
    by_kind = defaultdict(list)
    for name in sorted(whole.sizes()):
        by_kind[_kind_of(name)].append(name)
    if by_kind.keys() != KINDS or any(len(names) < 3 for names in by_kind.values()):
        raise RuntimeError(f"not every kind is there three times: {dict(by_kind)}")
    if found := _found(keeping, whole.root, every):
        raise RuntimeError(f"nothing was spoilt, and named were {found}")
    missed, of_kind, of_class, by_command = [], Counter(), Counter(), Counter()
    for turn in range(asked.each):
        for place, fault in enumerate(FAULTS):
            for at, kind in enumerate(sorted(by_kind)):
                shutil.rmtree(folder, ignore_errors=True)
                shutil.copytree(whole.root, folder, copy_function=os.link)
                name = chance.choice(by_kind[kind])
                spoilt = fault(folder, name, by_kind[kind], chance)
                if fault is _delete and name in promised:
                    spoilt = promised[name]
                if not spoilt:
                    raise RuntimeError(f"{_class_of(fault)} of {name} changed nothing")
                told = f"{_class_of(fault)} of {name}, which spoilt {sorted(spoilt)}"
                if not spoilt <= (found := _found(keeping, folder, every)):
                    missed.append(f"{told}; named were {sorted(found)}")
                elif turn == 0 and (place + at) % asked.by_command == 0:
                    by_command[_class_of(fault)] += 1
                    if said := _command_misses(keeping, folder, spoilt):
                        missed.append(f"{told}; {said}")
                of_kind[kind] += 1
                of_class[_class_of(fault)] += 1
    injected = of_class.total()
    return {
        "injected": injected, "found": injected - len(missed), "missed": missed,
        "by_kind": dict(of_kind), "by_class": dict(of_class), "by_command": dict(by_command),
    }  # fmt: skip


def _filled(
    stage: Stage, keeping: Keeping, cores: set[int]
) -> tuple[list[Sealed], dict[str, set[str]]]:
    """Let there be every kind of object, three times or more.

    Returns:
        Every run that ever was, and what is missing without one of our words.
    """
    backups, verify_keys = keeping.backups, keeping.keys.verify_keys()
    with keeping.archived(cores, SEALED_SECONDS):
        for number in range(RUNS):
            version = stage.versions[number % len(stage.versions)]
            if champions.current_all(stage.engine)[FLEET].version != version:
                stage.promote(version)  # else models and Redis have nothing new to tell
            keeping.keep_all_anew(now())
        keeping.wait_until_beyond()
    if stage.versions[0] != champions.current_all(stage.engine)[FLEET].version:
        stage.promote(stage.versions[0])
    backups.make(now())  # its manifest knows how far the log is sealed
    backups.let_go(range(1, GOING + 1), now())
    every = runs.every(backups.store, verify_keys)
    lost = [one.manifest.number for one in every[GOING : GOING + LOST]]
    for number in lost:
        backups.store.remove(runs.manifest_of(number))
    backups.mend(mending.plan(backups.store, verify_keys, [one.known for one in every]))
    backups.let_go((), now() + runs.UNFINISHED)  # what their runs kept
    there = {*backups.store.sizes()}
    promised = {
        f"{runs.GONE}/{one.manifest.number:08d}": one.objects.keys() - there for one in every
    }
    return every, promised | {runs.lost_of(number): {runs.manifest_of(number)} for number in lost}


def _found(keeping: Keeping, folder: Path, every: list[Sealed]) -> set[str]:
    """What is named by what the command calls, as closely as it is asked to by us."""
    found = verify(
        FolderStore(folder), keeping.keys.verify_keys(), Level.CONTENT,
        now=now() + timedelta(seconds=1), known=[one.known for one in every],
        identities=keeping.keys.identities(),
    )  # fmt: skip
    return {one.object for one in found.findings}


def _command_misses(keeping: Keeping, folder: Path, spoilt: set[str]) -> str:
    """What ``rul backup verify`` says or does wrong of damage; nothing where all is right."""
    environment = {**keeping.environment, "RUL_BACKUP_STORE": str(folder)}
    done = rul(environment, "backup", "verify", "--level", "content")
    silent = [name for name in sorted(spoilt) if f"{folder}/{name}: " not in done.stdout]
    if done.returncode == 1 and not silent:
        return ""
    return f"the command ended with {done.returncode} and was silent of {silent}: {done.stdout}"


def _kind_of(name: str) -> str:
    folder, _, rest = name.partition("/")
    if folder == wal.WAL:
        return "notes" if name.endswith(wal.NOTE) else "segments"
    return rest.rpartition("/")[2] if folder == runs.RUNS else folder


def _class_of(fault: Any) -> str:
    return fault.__name__[1:]


# Each takes the store's folder, an object, all of its kind, and gives the objects that it spoilt.
# What is there has other names elsewhere, so nothing is written to in its place.
def _write(path: Path, content: bytes) -> None:
    path.unlink()
    path.write_bytes(content)


def _flip(folder: Path, name: str, _: list[str], chance: random.Random) -> set[str]:
    content = bytearray((folder / name).read_bytes())
    content[chance.randrange(len(content))] ^= 1 << chance.randrange(8)
    _write(folder / name, bytes(content))
    return {name}


def _truncate(folder: Path, name: str, _: list[str], chance: random.Random) -> set[str]:
    content = (folder / name).read_bytes()
    _write(folder / name, content[: chance.randrange(len(content))])
    return {name}


def _lengthen(folder: Path, name: str, _: list[str], chance: random.Random) -> set[str]:
    more = chance.randbytes(chance.randint(1, 9))
    _write(folder / name, (folder / name).read_bytes() + more)
    return {name}


def _delete(folder: Path, name: str, _: list[str], __: random.Random) -> set[str]:
    (folder / name).unlink()
    return {name}


def _swap(folder: Path, name: str, names: list[str], chance: random.Random) -> set[str]:
    other = chance.choice([each for each in names if each != name])
    return _exchanged(folder, {name: other, other: name})


def _replay(folder: Path, name: str, names: list[str], chance: random.Random) -> set[str]:
    other = chance.choice([each for each in names if each != name])
    older, newer = sorted((name, other))
    return _exchanged(folder, {newer: older})


def _duplicate(folder: Path, name: str, _: list[str], __: random.Random) -> set[str]:
    copy = f"{name}-copy"
    shutil.copyfile(folder / name, folder / copy)
    return {copy}


def _reorder(folder: Path, _: str, names: list[str], __: random.Random) -> set[str]:
    return _exchanged(folder, dict(zip(names, [*names[1:], names[0]], strict=True)))


def _exchanged(folder: Path, sources: dict[str, str]) -> set[str]:
    """Put into each object what another has; give those that are not as they were."""
    before = {name: (folder / name).read_bytes() for name in {*sources, *sources.values()}}
    changed = {name for name, source in sources.items() if before[name] != before[source]}
    for name in changed:
        _write(folder / name, before[sources[name]])
    return changed


FAULTS = (_flip, _truncate, _lengthen, _delete, _swap, _replay, _duplicate, _reorder)
