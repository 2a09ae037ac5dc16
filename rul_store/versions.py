"""Every version of a fleet's model: what each is to the fleet, and whether it may become champion.

What belongs here: telling champions, candidates and what is held back or damaged apart, keeping
what the gate ruled, promoting. What does not: bundles (``registry``, ``models``), moving the
champion (``champions``), the gate itself (``rul_core.release``).

A damaged bundle is known by its checksums, which are computed again only when a file looks changed
(its size or time): whoever loads a bundle, or makes it the champion, computes them in any case.
"""

from collections.abc import Collection
from datetime import UTC, datetime
from enum import StrEnum
from pathlib import Path
from typing import Annotated

import msgspec
import redis
import sqlalchemy as sa

from rul_core.errors import BundleError, Conflict, GateNotPassed, UnknownVersion
from rul_store import champions, cursors, models
from rul_store.champions import Action, Champion
from rul_store.database import begin
from rul_store.registry import VERSION_PATTERN, BundleStore


class Standing(StrEnum):
    """What a version is to its fleet."""

    CHAMPION = "champion"
    """It is live."""
    EARLIER_CHAMPION = "earlier_champion"
    """It was live once."""
    CHALLENGER = "challenger"
    """It speaks in the shadow of the champion."""
    CANDIDATE = "candidate"
    """It never was live, and nothing speaks against it."""
    REFUSED = "refused"
    """It never was live, and the release gate speaks against it."""


class ModelVersion(msgspec.Struct, frozen=True, kw_only=True):
    """A version of a fleet's model."""

    version: str
    standing: Standing
    made_at: datetime
    """When it was trained."""
    live_since: datetime | None = None
    """When it became the champion, the last time; null where it never did."""
    held_back: tuple[str, ...] = ()
    """What the release gate has against it."""
    ruling: str = ""
    """What the comparison with the champion of then came to, where there was one."""
    damage: str = ""
    """Why it cannot be used; empty where its bundle is as it was written."""


class Ruled(msgspec.Struct, frozen=True, kw_only=True):
    """Whether a candidate was found fit to take the champion's place."""

    passed: bool
    why: str


class Known(msgspec.Struct, frozen=True, kw_only=True):
    """What the database knows of a fleet's versions."""

    moves: tuple[Champion, ...]
    """Of the champion, oldest first."""
    rulings: dict[str, Ruled]
    """By version."""
    challenger: str | None
    """The version that speaks beside the champion."""

    @property
    def champion(self) -> Champion | None:
        """The live one."""
        return self.moves[-1] if self.moves else None

    @property
    def generation(self) -> int:
        """How many times the champion moved."""
        return len(self.moves)


class VersionPage(msgspec.Struct, frozen=True, kw_only=True):
    """Some versions, the newest first."""

    versions: tuple[ModelVersion, ...]
    cursor: str | None
    """For the next page; none after the last."""


class _After(msgspec.Struct, frozen=True):
    """Where a page begins."""

    version: Annotated[str, msgspec.Meta(pattern=f"^{VERSION_PATTERN}$(?!\n)")]


def known(engine: sa.Engine, fleet: str) -> Known:
    """What the database knows of the fleet's versions.

    Raises:
        Unavailable: PostgreSQL does not answer.
    """
    moves = champions.history(engine, fleet)
    with begin(engine) as connection:
        rows = connection.execute(sa.text(_RULINGS), {"fleet": fleet}).all()
        challenger = connection.execute(sa.text(_CHALLENGER), {"fleet": fleet}).scalar()
    rulings = {row.version: Ruled(passed=row.passed, why=row.why) for row in rows}
    return Known(moves=moves, rulings=rulings, challenger=challenger)


def keep_ruling(engine: sa.Engine, fleet: str, version: str, ruled: Ruled) -> None:
    """Keep what came of comparing a candidate with the champion; the newest counts.

    Raises:
        Unavailable: PostgreSQL does not answer.
    """
    row = {"fleet": fleet, "version": version, "passed": ruled.passed, "why": ruled.why}
    with begin(engine) as connection:
        connection.execute(sa.text(_KEEP_RULING), row)


class Inspector:
    """Looks at bundles, and again only where a file of theirs looks changed.

    Args:
        store: Where they are.
    """

    def __init__(self, store: BundleStore) -> None:
        self._store = store
        self._seen: dict[tuple[str, str], tuple[object, tuple[str, ...], str]] = {}

    def page(
        self, fleet: str, about: Known, *, limit: int, after: str | None = None
    ) -> VersionPage:
        """The fleet's versions, the newest first; also champions whose bundle is gone.

        Args:
            fleet: The fleet's name.
            about: What the database knows of them.
            limit: How many at most.
            after: The cursor of the page before.

        Raises:
            InvalidCursor: The cursor is none that this gave.
        """
        before = cursors.decode(after, _After, "these models").version if after else None
        names = [
            name for name in reversed(self._names(fleet, about)) if before is None or name < before
        ]
        more = len(names) > limit
        return VersionPage(
            versions=tuple(self.one(fleet, about, name) for name in names[:limit]),
            cursor=cursors.encode(_After(version=names[limit - 1])) if more else None,
        )

    def every(self, fleet: str, about: Known) -> tuple[ModelVersion, ...]:
        """All of them, the oldest first."""
        return tuple(self.one(fleet, about, name) for name in self._names(fleet, about))

    def one(self, fleet: str, about: Known, version: str) -> ModelVersion:
        """What a version is; one that nobody knows is damaged, since its bundle is not there."""
        held_back, damage = self._look(fleet, version)
        live = [move for move in about.moves if move.version == version]
        ruled = about.rulings.get(version)
        if ruled and not ruled.passed:
            held_back = (*held_back, ruled.why)
        if any(move.action is Action.RELEASE for move in live):
            held_back = ()  # the gate let it through
        if about.champion is not None and about.champion.version == version:
            standing = Standing.CHAMPION
        elif version == about.challenger:
            standing = Standing.CHALLENGER
        elif live:
            standing = Standing.EARLIER_CHAMPION
        else:
            standing = Standing.REFUSED if held_back else Standing.CANDIDATE
        return ModelVersion(
            version=version,
            standing=standing,
            made_at=_made_at(version),
            live_since=live[-1].promoted_at if live else None,
            held_back=held_back,
            ruling=ruled.why if ruled else "",
            damage=damage,
        )

    def _names(self, fleet: str, about: Known) -> list[str]:
        return sorted({*self._store.list(fleet), *(move.version for move in about.moves)})

    def _look(self, fleet: str, version: str) -> tuple[tuple[str, ...], str]:
        """What the gate has against a bundle, and its damage."""
        key, looks = (fleet, version), self._store.fingerprint(fleet, version)
        kept = self._seen.get(key)
        if kept is None or kept[0] != looks:
            try:
                kept = (looks, models.hindrances(self._store.open(fleet, version)), "")
            except BundleError as error:
                kept = (looks, (), str(error))
            self._seen[key] = kept
        return kept[1], kept[2]


def promote(
    engine: sa.Engine,
    root: Path,
    fleet: str,
    version: str,
    *,
    by: str,
    reason: str,
    expected: Collection[int] | None = None,
    despite_gate: bool = False,
    trace_id: str = "",
    redis_client: redis.Redis | None = None,
) -> Champion:
    """Make a version live that a person chose.

    Args:
        engine: The database, which decides.
        root: The data root, with the bundles.
        fleet: The fleet's name.
        version: The bundle to make live.
        by: The person.
        reason: For people, later.
        expected: The generations that it was decided on; any where none.
        despite_gate: Also one that the release gate speaks against; the audit says what.
        trace_id: As of ``champions.move``.
        redis_client: As of ``champions.move``.

    Raises:
        UnknownVersion: There is no such version.
        BundleError: Its bundle is damaged.
        GateNotPassed: The gate speaks against it.
        Conflict: It is live already.
        Outdated: Another moved the champion.
        NotProjected: As of ``champions.move``.
        Unavailable: PostgreSQL does not answer.
    """
    about, store = known(engine, fleet), BundleStore(root)
    generation = champions.require(about.champion, fleet, version, expected)
    store.open(fleet, version)
    if about.champion is not None and about.champion.version == version:
        raise Conflict(f"version {version} is the champion of fleet {fleet!r} already")
    found = Inspector(store).one(fleet, about, version)
    if found.damage:
        raise BundleError(found.damage)
    if found.held_back and not despite_gate:
        raise GateNotPassed(
            f"the release gate speaks against version {version} of fleet {fleet!r}: "
            f"{'; '.join(found.held_back)}; choose another version, or say that it shall be live "
            "despite the gate"
        )
    return champions.move(
        engine,
        root,
        fleet,
        version,
        expected_generation=generation,
        action=Action.PROMOTE,
        by=by,
        reason=reason,
        despite=found.held_back,
        trace_id=trace_id,
        redis_client=redis_client,
    )


def _made_at(version: str) -> datetime:
    try:
        at = datetime.strptime(version.partition("-")[0], "%Y%m%dT%H%M%SZ").replace(tzinfo=UTC)
    except ValueError as error:  # well formed, and yet no time: the 32nd of a month
        raise UnknownVersion(
            f"{version} is no version of a model, since it begins with no time"
        ) from error
    return at


_RULINGS = "SELECT version, passed, why FROM rulings WHERE fleet = :fleet"
_CHALLENGER = "SELECT version FROM challengers WHERE fleet = :fleet"
_KEEP_RULING = """
    INSERT INTO rulings (fleet, version, passed, why) VALUES (:fleet, :version, :passed, :why)
    ON CONFLICT (fleet, version) DO UPDATE SET
        passed = excluded.passed, why = excluded.why, ruled_at = clock_timestamp()
"""
