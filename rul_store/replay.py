"""A recorded prognosis computed again from what it says it was computed from.

What belongs here: finding its readings and its model, computing, comparing bit for bit. What does
not: the computation itself (``rul_core.prognose``), whether the ledger was changed
(``ledger.verify``).

Nothing that came to be known later has a part in it: of the readings those count that had been seen
(``Seen``), of the fleet the description that the model learnt under, of the clock the moment of
recording. What is told to people alone, such as words, is compared too.
"""

from enum import StrEnum
from functools import lru_cache
from pathlib import Path
from uuid import UUID

import msgspec
import polars as pl
import sqlalchemy as sa

from rul_core.errors import ReplayError, StoreError, Unavailable
from rul_core.prognose import prognose, unread
from rul_core.prognosis import Prognosis, Seen, State
from rul_core.schema import CYCLE, Fleet
from rul_core.trees import ENGINE
from rul_store import histories
from rul_store.database import begin
from rul_store.lake import Lake
from rul_store.ledger import Recorded, named
from rul_store.models import LoadedModel, load_model
from rul_store.registry import BundleStore

VERSIONS_KEPT = 4


class ReplayVerdict(StrEnum):
    """What came of computing a prognosis again."""

    EQUAL = "equal"
    """Every figure and word is what was recorded, to the last bit."""
    DIFFERENT = "different"
    """Something differs: the readings, the model or the entry are not what they were."""
    IMPOSSIBLE = "impossible"
    """What it was computed from is not there any more, or there was nothing to compute."""


class Difference(msgspec.Struct, frozen=True, kw_only=True):
    """A field that differs."""

    field: str
    """Its path, such as ``provenance.readings``."""
    recorded: str
    """As JSON."""
    recomputed: str


class Replayed(msgspec.Struct, frozen=True, kw_only=True):
    """What came of a replay."""

    ledger_id: UUID
    fleet: str
    position: int
    verdict: ReplayVerdict
    reason: str = ""
    """Why it is impossible."""
    differences: tuple[Difference, ...] = ()
    """Each field that differs; empty unless the verdict is ``different``."""


class Versions:
    """Model versions as they are asked for, of which the last few stay loaded.

    Args:
        root: The data root.
        kept: How many.
    """

    def __init__(self, root: Path, kept: int = VERSIONS_KEPT) -> None:
        store = BundleStore(root)

        @lru_cache(maxsize=kept)  # a bundle never changes; what cannot be loaded is not kept
        def load(fleet: str, version: str) -> LoadedModel:
            return load_model(store, fleet, version)

        self._load = load

    def load(self, fleet: str, version: str) -> LoadedModel:
        """The model.

        Raises:
            BundleError: The bundle is gone or damaged.
        """
        return self._load(fleet, version)


def version_of(prognosis: Prognosis) -> str:
    """Which model can compute a prognosis again.

    Raises:
        ReplayError: None: nothing was computed, or by an engine that this version of the platform
            has not, or it does not say from what.
    """
    known = prognosis.provenance
    if prognosis.state in (State.NOT_CONFIGURED, State.MODEL_ERROR) or not known.model_version:
        raise ReplayError(f"nothing was computed: the state is {prognosis.state}")
    if known.engine not in (ENGINE, None):
        raise ReplayError(
            f"it was computed by engine {known.engine!r}, this version of the platform has "
            f"{ENGINE!r}; replay it with the version that computed it"
        )
    if known.seen == Seen():
        raise ReplayError("it does not say which readings had been seen")
    return known.model_version


def replay(engine: sa.Engine, lake: Lake, versions: Versions, entry: Recorded) -> Replayed:
    """Compute a recorded prognosis again, and compare.

    Raises:
        Unavailable: PostgreSQL does not answer.
    """
    try:
        prognosis = entry.prognosis
        loaded = versions.load(prognosis.fleet, version_of(prognosis))
        readings = readings_of(engine, lake, loaded.model.fleet, prognosis)
    except Unavailable:
        raise
    except StoreError as error:
        return impossible(entry, error)
    return compare(entry, recompute(loaded, readings, prognosis))


def readings_of(engine: sa.Engine, lake: Lake, fleet: Fleet, prognosis: Prognosis) -> pl.DataFrame:
    """The readings that a prognosis was computed from.

    Args:
        engine: The database.
        lake: Of the same data root.
        fleet: The model's description of it.
        prognosis: Of which ``version_of`` knows the model.

    Raises:
        StoreError: The lake has lost rows, or cannot be read.
        Unavailable: PostgreSQL does not answer.
    """
    known, life = prognosis.provenance, (prognosis.unit, prognosis.life or 0)
    try:
        with begin(engine) as connection:
            readings = histories.read(connection, lake, fleet, [life], known.seen)
    except pl.exceptions.PolarsError as error:
        raise ReplayError(
            f"the raw readings of fleet {fleet.name!r} cannot be read: {error}; mount or copy back "
            f"lake/{histories.RAW}/{fleet.name}, which is in no backup"
        ) from error
    last = known.last_cycle
    return readings if last is None else readings.filter(pl.col(CYCLE) <= last)


def recompute(loaded: LoadedModel, readings: pl.DataFrame, prognosis: Prognosis) -> Prognosis:
    """What the model says of the readings at the moment of a prognosis, in as much detail.

    Args:
        loaded: The model that ``version_of`` names.
        readings: From ``readings_of``.
        prognosis: As it was recorded.
    """
    known, now = prognosis.provenance, prognosis.computed_at
    if now is None:
        raise ReplayError("it does not say when it was computed")
    if readings.is_empty():
        said = unread(
            loaded.model.fleet,
            prognosis.unit,
            prognosis.life or 0,
            version=loaded.version,
            now=now,
            seen=known.seen,
        )
    else:
        (said,) = prognose(
            loaded.model,
            readings,
            version=loaded.version,
            now=now,
            explained=bool(prognosis.contributions),
            trace_id=known.trace_id,
            seen=known.seen,
        )
    return named(said)


def compare(entry: Recorded, recomputed: Prognosis) -> Replayed:
    """Field by field, as they are written."""
    before, after = _fields(entry.prognosis), _fields(recomputed)
    differences = tuple(
        Difference(
            field=field,
            recorded=before.get(field, "null"),
            recomputed=after.get(field, "null"),
        )
        for field in dict.fromkeys([*before, *after])
        if before.get(field) != after.get(field)
    )
    return msgspec.structs.replace(
        _verdict(entry, ReplayVerdict.DIFFERENT if differences else ReplayVerdict.EQUAL),
        differences=differences,
    )


def impossible(entry: Recorded, error: StoreError) -> Replayed:
    """Why there is nothing to compare with."""
    return msgspec.structs.replace(_verdict(entry, ReplayVerdict.IMPOSSIBLE), reason=str(error))


def _verdict(entry: Recorded, verdict: ReplayVerdict) -> Replayed:
    return Replayed(
        ledger_id=entry.ledger_id,
        fleet=entry.prognosis.fleet,
        position=entry.position,
        verdict=verdict,
    )


def _fields(prognosis: Prognosis) -> dict[str, str]:
    """Every field's path and JSON, in which no bit of a number is lost."""
    content = msgspec.json.decode(msgspec.json.encode(prognosis), type=dict[str, msgspec.Raw])
    content |= _inside("provenance", content.pop("provenance"))
    content |= _inside("provenance.seen", content.pop("provenance.seen"))
    return {field: bytes(value).decode() for field, value in content.items()}


def _inside(name: str, value: msgspec.Raw) -> dict[str, msgspec.Raw]:
    fields = msgspec.json.decode(value, type=dict[str, msgspec.Raw])
    return {f"{name}.{field}": content for field, content in fields.items()}
