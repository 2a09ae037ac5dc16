"""Descriptions of fleets, ``fleets/<name>.toml`` under the data root.

What belongs here: reading, writing and listing the files. What does not: what a description says
(``rul_core.schema``), guessing one from data (``rul_core.discovery``).
"""

from pathlib import Path

from rul_core.errors import FleetError
from rul_core.schema import Fleet, read_fleet, write_fleet
from rul_store import files

FOLDER = "fleets"


def load(root: Path, name: str) -> Fleet:
    """The fleet of that name.

    Raises:
        FleetError: There is no such description, it cannot be read, or it names another fleet.
    """
    path = path_of(root, name)
    try:
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError as error:
        known = ", ".join(names(root)) or "none"
        raise FleetError(
            f"{path} is not there (fleets with a description: {known}); "
            f"write one from data with `rul fleet init {name} FILE`"
        ) from error
    except (OSError, UnicodeDecodeError) as error:
        raise FleetError(f"{path} cannot be read: {error}; it must be UTF-8 text") from error
    fleet = read_fleet(text, str(path))
    if fleet.name != name:
        raise FleetError(f"{path} says name = {fleet.name!r}; give file and fleet the same name")
    return fleet


def save(root: Path, fleet: Fleet, *, replace: bool = False) -> Path:
    """Write the fleet's description in one step; give its path.

    Raises:
        FleetError: There is a description already, and ``replace`` is not set.
    """
    path = path_of(root, fleet.name)
    if path.exists() and not replace:
        raise FleetError(f"{path} exists; edit it, or write a new one with --replace")
    files.write(path, write_fleet(fleet))
    return path


def names(root: Path) -> tuple[str, ...]:
    """The names of all described fleets, sorted."""
    return tuple(sorted(path.stem for path in (root / FOLDER).glob("[!.]*.toml")))


def path_of(root: Path, name: str) -> Path:
    """Where the description of that fleet is or would be."""
    return root / FOLDER / f"{files.safe_name(name, 'fleet')}.toml"
