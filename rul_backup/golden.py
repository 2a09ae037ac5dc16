"""Whether a restored platform says what it said before.

What belongs here: each fleet's champion loaded, and recorded prognoses of it computed again. What
does not: how that is done (``rul_store.models``, ``rul_store.replay``).
"""

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import sqlalchemy as sa

from rul_core.errors import RulError
from rul_store import champions, ledger, replay
from rul_store.lake import Lake
from rul_store.replay import Replayed, ReplayVerdict

TRIED = 10
"""Of a model's newest prognoses that can be computed again."""
LOOKED_AT = 200
"""Of its newest, in which these are looked for."""


class Golden(NamedTuple):
    """What was found of a fleet."""

    fleet: str
    version: str
    is_sound: bool
    told: str
    compared: int = 0
    """Prognoses that were computed again."""
    looked_at: int = 0
    """Prognoses that were looked at."""


def check(engine: sa.Engine, root: Path, models_root: Path) -> list[Golden]:
    """Load every fleet's champion, and compute what it said last again.

    Readings that came in files are in the lake, which backups do not have: where it lacks them, a
    prognosis cannot be computed again, and that is told and no fault.

    Args:
        engine: The restored database.
        root: The data root, whose lake is looked into.
        models_root: The folder whose ``models/`` were restored.

    Raises:
        Unavailable: PostgreSQL does not answer.
    """
    versions, found = replay.Versions(models_root), []
    for fleet, champion in sorted(champions.current_all(engine).items()):
        version = champion.version
        try:
            versions.load(fleet, version)
        except (RulError, OSError) as error:
            found.append(Golden(fleet, version, is_sound=False, told=str(error)))
            continue
        said, compared = [], 0
        for entry in ledger.newest(engine, fleet, version, limit=LOOKED_AT):
            said.append(replay.replay(engine, Lake(root), versions, entry))
            compared += said[-1].verdict is not ReplayVerdict.IMPOSSIBLE
            if compared == TRIED:
                break
        found.append(_of(fleet, version, said))
    return found


def _of(fleet: str, version: str, said: Sequence[Replayed]) -> Golden:
    """What the newest prognosis tells that differs, or else that could be computed at all."""
    if not said:
        told = "its golden windows answer as before; it has said nothing yet"
        return Golden(fleet, version, is_sound=True, told=told)
    compared = [one for one in said if one.verdict is not ReplayVerdict.IMPOSSIBLE]
    different = [one for one in compared if one.verdict is ReplayVerdict.DIFFERENT]
    told = _told((different or compared or said)[0])
    is_sound = not different
    return Golden(fleet, version, is_sound, told, compared=len(compared), looked_at=len(said))


def _told(again: Replayed) -> str:
    match again.verdict:
        case ReplayVerdict.EQUAL:
            return f"prognosis {again.ledger_id}, computed again, is equal to the last bit"
        case ReplayVerdict.DIFFERENT:
            fields = ", ".join(each.field for each in again.differences)
            return f"prognosis {again.ledger_id}, computed again, differs in {fields}"
        case ReplayVerdict.IMPOSSIBLE:
            return (
                "its golden windows answer as before; none of its last prognoses can be computed "
                f"again: {again.reason}"
            )
