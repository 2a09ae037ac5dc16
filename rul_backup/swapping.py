"""Models and fleets of a data root exchanged for those of a run, so that a kill does no harm.

What belongs here: what is staged, added, put in another's place, put aside. What does not: the
database (``live``), in which order the two go.

What is staged lies beside what lives, in the same folder, since that may be a volume of its own. It
stays whole until the end, so that each step can be done again and comes to the same:

    add      bundles that are not there, or not as they were kept; whatever either database names
             is there from then on
    settle   once the database has changed: files that are written over in a life (``live.json``,
             descriptions of fleets), and what the run does not have goes aside
"""

import shutil
import tarfile
from collections.abc import Mapping, Sequence
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import BinaryIO

from rul_core.errors import StoreError
from rul_store import files

FOLDERS = {"fleets": 1, "models": 2}
"""Each folder, and how deep in it the things lie that are exchanged: a description, a bundle."""
STAGED, BEFORE = ".rul_restoring", ".rul_before_"
_COPY = f"{STAGED}.copy"


def stage(plain: BinaryIO, root: Path) -> None:
    """Unpack a tar of models and fleets beside those of a data root.

    Raises:
        StoreError: It has something else.
    """
    unstage(root)
    with ExitStack() as stack:
        folders = {
            name: stack.enter_context(files.publishing(root / name / STAGED)) for name in FOLDERS
        }
        with tarfile.open(fileobj=plain) as archive:
            for member in archive:
                top, _, rest = member.name.partition("/")
                if top not in folders or not rest:
                    raise StoreError(f"the run has {member.name!r}, which is no model or fleet")
                member.name = rest
                archive.extract(member, folders[top], filter="data")


def unstage(root: Path) -> None:
    """Remove what was staged, also by whoever was killed meanwhile."""
    for name in FOLDERS:
        folder = root / name
        for path in [folder / STAGED, folder / _COPY, *folder.glob(f".{STAGED}.*.tmp")]:
            shutil.rmtree(path, ignore_errors=True)


def is_empty(root: Path) -> bool:
    """Whether a data root has neither a model nor a fleet."""
    return not any(_things(root / name, depth) for name, depth in FOLDERS.items())


def leaving(root: Path) -> dict[str, list[str]]:
    """What a data root has and what is staged has not, by folder; none where nothing is staged."""
    return {
        name: sorted(_things(root / name, depth) - _things(root / name / STAGED, depth))
        for name, depth in FOLDERS.items()
        if (root / name / STAGED).is_dir()
    }


def add(root: Path, run: str) -> None:
    """Add the folders that are staged; one that is there and differs goes aside."""
    for name, depth in FOLDERS.items():
        staged, live = root / name / STAGED, root / name
        for thing in sorted(_things(staged, depth)):
            if (staged / thing).is_dir() and not _same(staged / thing, live / thing):
                # Copied first: what is there and differs is missing between two renamings alone.
                copy = live / _COPY
                shutil.rmtree(copy, ignore_errors=True)
                with files.publishing(copy) as new:
                    shutil.copytree(staged / thing, new, dirs_exist_ok=True)
                if (live / thing).exists():
                    _put_aside(live, thing, run)
                files.make_folder((live / thing).parent)
                copy.rename(live / thing)


def settle(root: Path, run: str, leave: Mapping[str, Sequence[str]]) -> None:
    """Put files that are staged in the place of those that live, and aside what leaves."""
    for name, depth in FOLDERS.items():
        staged, live = root / name / STAGED, root / name
        for thing in sorted(_things(staged, depth)):
            if not (staged / thing).is_dir() and not _same(staged / thing, live / thing):
                if (live / thing).is_dir():
                    _put_aside(live, thing, run)
                elif (live / thing).exists():
                    _keep_aside(live, thing, run)
                with files.replacing(live / thing) as new:
                    shutil.copyfile(staged / thing, new)
        for thing in leave.get(name, ()):
            # What has come under the name since it went aside, before a kill, is the new system's.
            if (live / thing).exists() and not (live / f"{BEFORE}{run}" / thing).exists():
                _put_aside(live, thing, run)
            with suppress(OSError):  # it is the folder itself, or has others
                (live / thing).parent.rmdir()


def put_aside(root: Path) -> list[Path]:
    """The folders into which restores put what was there before them."""
    return sorted(path for name in FOLDERS for path in (root / name).glob(f"{BEFORE}*"))


def _things(folder: Path, depth: int) -> set[str]:
    """What lies so deep, or less deep where it is no folder; by its path."""
    found: set[str] = set()
    for path in folder.iterdir() if folder.is_dir() else ():
        if path.name.startswith("."):
            continue
        if depth > 1 and path.is_dir():
            found |= {f"{path.name}/{each}" for each in _things(path, depth - 1)}
        else:
            found.add(path.name)
    return found


def _same(one: Path, other: Path) -> bool:
    if one.is_dir() and other.is_dir():
        names = [
            {each.relative_to(folder) for each in folder.rglob("*")} for folder in (one, other)
        ]
        return names[0] == names[1] and all(
            _same(one / name, other / name) for name in names[0] if (one / name).is_file()
        )
    if not (one.is_file() and other.is_file()):
        return False
    if one.stat().st_size != other.stat().st_size:
        return False
    return files.sha256_of(one) == files.sha256_of(other)


def _put_aside(live: Path, thing: str, run: str) -> None:
    aside = live / f"{BEFORE}{run}" / thing
    files.make_folder(aside.parent)
    (live / thing).rename(aside)


def _keep_aside(live: Path, thing: str, run: str) -> None:
    aside = live / f"{BEFORE}{run}" / thing
    if not aside.exists():
        with files.replacing(aside) as copy:
            shutil.copyfile(live / thing, copy)
