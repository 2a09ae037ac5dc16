"""Which bundle of each fleet is live: one function moves it.

What belongs here: releasing, promoting and rolling back, the history, ``live.json``. What does not:
deciding whether a model deserves it (``rul_assets``), bundles themselves (``registry``).

A conditional update in PostgreSQL decides: whoever names the generation that stands there wins, and
the loser is told who won. So a run that was given up for dead and wakes up later cannot overwrite
its successor's release. ``models/<fleet>/live.json`` is the projection of that row, for starting
without PostgreSQL; it is written under a lock that PostgreSQL holds, from the row as it is read
inside the lock, so a slow writer cannot put an older champion over a newer one.
"""

from collections.abc import Collection, Iterable, Sequence
from datetime import datetime
from enum import StrEnum
from pathlib import Path

import msgspec
import redis
import sqlalchemy as sa

from rul_core.errors import Conflict, NotProjected, Outdated, StoreError
from rul_store import audit, files
from rul_store.database import begin
from rul_store.registry import FOLDER, BundleStore
from rul_store.swallowed import swallow
from rul_store.tables import champion_history

CHANNEL = "rul:released"
"""The Redis channel on which each move is told, as the JSON of a ``Champion``."""
LIVE = "live.json"
PROJECTION_LOCK = 0x52554C02
LOCK_TIMEOUT_MS = 10_000


class Action(StrEnum):
    """Why the champion moved."""

    RELEASE = "release"
    """A challenger passed the gate."""
    PROMOTE = "promote"
    """A person chose a version."""
    ROLLBACK = "rollback"
    """Back to the version before."""


class Champion(msgspec.Struct, frozen=True, kw_only=True):
    """The live version of a fleet, or one that was live."""

    fleet: str
    version: str
    generation: int
    """How many times the champion moved; what the next move must name."""
    promoted_at: datetime
    promoted_by: str
    reason: str
    action: Action


def move(
    engine: sa.Engine,
    root: Path,
    fleet: str,
    version: str,
    *,
    expected_generation: int,
    action: Action,
    by: str,
    reason: str,
    despite: Collection[str] = (),
    trace_id: str = "",
    redis_client: redis.Redis | None = None,
) -> Champion:
    """Make the version live; the move and its entry in the audit are one transaction.

    Args:
        engine: The database, which decides.
        root: The data root, with the bundles.
        fleet: The fleet's name.
        version: The bundle to make live.
        expected_generation: That of the champion which this move replaces; 0 when there is none.
        action: Why it moves.
        by: The person or run that moves it.
        reason: For people, later.
        despite: What spoke against it, for the audit.
        trace_id: Of the request that moves it, for the audit.
        redis_client: Told of the move. When it does not answer, serving learns of the move by
            looking for itself, seconds later.

    Raises:
        BundleError: The version's bundle is missing or damaged.
        Outdated: Another moved the champion first; says who.
        NotProjected: The champion moved, but ``live.json`` could not be written.
        Unavailable: PostgreSQL does not answer.
    """
    BundleStore(root).open(fleet, version)
    parameters = {
        "fleet": fleet,
        "version": version,
        "expected": expected_generation,
        "action": Action(action).value,
        "by": by,
        "reason": reason,
    }
    with begin(engine) as connection:
        statement = _UPDATE if expected_generation else _INSERT
        moved = connection.execute(sa.text(statement), parameters).first()
        if moved is None:
            present = _current(connection, fleet)
            raise Outdated(_who_won(present, fleet, version, f"{expected_generation}"))
        connection.execute(
            sa.insert(champion_history).values(
                fleet=fleet,
                version=version,
                generation=moved.generation,
                from_at=moved.promoted_at,
                promoted_by=by,
                reason=reason,
                action=parameters["action"],
            )
        )
        # Who is the champion is no challenger any more.
        connection.execute(sa.text(_END_NOMINATION), parameters)
        audit.append(
            connection,
            principal=by,
            action=f"model.{parameters['action']}",
            target=version,
            fleet=fleet,
            detail={
                "generation": moved.generation,
                "why": reason,
                **({"despite": list(despite)} if despite else {}),
            },
            trace_id=trace_id,
        )
    champion = Champion(
        fleet=fleet,
        version=version,
        generation=moved.generation,
        promoted_at=moved.promoted_at,
        promoted_by=by,
        reason=reason,
        action=Action(action),
    )
    _tell(redis_client, champion)
    try:
        repair_projection(engine, root, fleet)
    except (OSError, StoreError) as error:
        raise NotProjected(
            f"the champion of fleet {fleet!r} is {version} now (generation {champion.generation}), "
            f"but {LIVE} could not be written: {error}; repair the projection",
            champion,
        ) from error
    return champion


def rollback(
    engine: sa.Engine,
    root: Path,
    fleet: str,
    *,
    by: str,
    reason: str,
    expected: Collection[int] | None = None,
    trace_id: str = "",
    redis_client: redis.Redis | None = None,
) -> Champion:
    """Make the version live that was so before the present one.

    Rolling back twice goes two versions back; what was rolled back is not returned to.

    Args:
        engine: The database, which decides.
        root: The data root, with the bundles.
        fleet: The fleet's name.
        by: The person that moves it.
        reason: For people, later.
        expected: The generations that it was decided on; any where none.
        trace_id: As of ``move``.
        redis_client: As of ``move``.

    Raises:
        BundleError: The earlier version's bundle is missing or damaged.
        Conflict: There is no earlier version.
        Outdated: Another moved the champion meanwhile.
        NotProjected: As of ``move``.
        Unavailable: PostgreSQL does not answer.
    """
    version, generation = way_back(history(engine, fleet), fleet, expected)
    return move(
        engine,
        root,
        fleet,
        version,
        expected_generation=generation,
        action=Action.ROLLBACK,
        by=by,
        reason=reason,
        trace_id=trace_id,
        redis_client=redis_client,
    )


def way_back(
    moves: Sequence[Champion], fleet: str, expected: Collection[int] | None = None
) -> tuple[str, int]:
    """The version that was live before the present one, and the present generation.

    Args:
        moves: Of the champion, oldest first.
        fleet: Its fleet.
        expected: The generations that the move was decided on; any where none.

    Raises:
        Outdated: Another moved the champion.
        Conflict: There is no earlier version.
    """
    generation = require(moves[-1] if moves else None, fleet, "the version before", expected)
    standing = _standing(moves)
    if len(standing) < 2:
        raise Conflict(
            f"fleet {fleet!r} has no version before {standing[0] if standing else 'its first'}; "
            f"choose one with `rul models promote {fleet} VERSION`"
        )
    return standing[-2], generation


def require(
    present: Champion | None, fleet: str, version: str, expected: Collection[int] | None
) -> int:
    """The present generation, 0 before the first champion, if it is one that was expected.

    Args:
        present: The champion.
        fleet: Its fleet.
        version: What it shall be moved to, for the message.
        expected: The generations that the move was decided on; any where none.

    Raises:
        Outdated: Another moved the champion; says who.
    """
    generation = present.generation if present else 0
    if expected is not None and generation not in expected:
        wanted = " or ".join(str(one) for one in sorted(expected)) or "one that never was"
        raise Outdated(_who_won(present, fleet, version, wanted))
    return generation


def current(engine: sa.Engine, fleet: str) -> Champion | None:
    """The fleet's champion; none before its first release."""
    with begin(engine) as connection:
        return _current(connection, fleet)


def live_version(connection: sa.Connection, fleet: str) -> str | None:
    """The live version, within a transaction."""
    champion = _current(connection, fleet)
    return champion.version if champion else None


def current_all(engine: sa.Engine) -> dict[str, Champion]:
    """The champion of every fleet that has one, by fleet."""
    with begin(engine) as connection:
        return {champion.fleet: champion for champion in _read(connection, _LIVE)}


def history(engine: sa.Engine, fleet: str) -> tuple[Champion, ...]:
    """Every move of the fleet's champion, oldest first."""
    with begin(engine) as connection:
        return _read(connection, "fleet = :fleet ORDER BY generation", fleet=fleet)


def moves_before(
    engine: sa.Engine, fleet: str, *, limit: int, before: int | None = None
) -> tuple[Champion, ...]:
    """The newest moves first; ``before`` is the generation to go on from."""
    condition = """
        fleet = :fleet AND (CAST(:before AS bigint) IS NULL OR generation < :before)
        ORDER BY generation DESC LIMIT :limit
    """
    with begin(engine) as connection:
        return _read(connection, condition, fleet=fleet, before=before, limit=limit)


def live_at(engine: sa.Engine, fleet: str, time: datetime) -> Champion | None:
    """What was live at that time; none before the first release."""
    newest = "fleet = :fleet AND from_at <= :time ORDER BY generation DESC LIMIT 1"
    with begin(engine) as connection:
        return next(iter(_read(connection, newest, fleet=fleet, time=time)), None)


def read_live(root: Path, fleet: str) -> Champion | None:
    """The champion by ``live.json``, without a database; none when there is no such file.

    Raises:
        StoreError: The file is damaged.
    """
    path = root / FOLDER / files.safe_name(fleet, "fleet") / LIVE
    try:
        return msgspec.json.decode(path.read_bytes(), type=Champion)
    except FileNotFoundError:
        return None
    except msgspec.DecodeError as error:
        raise StoreError(f"{path} is damaged: {error}; repair the projection") from error


def repair_projection(engine: sa.Engine, root: Path, fleet: str) -> Champion | None:
    """Write ``live.json`` from the database, and give what it says; remove it when nothing is live.

    Raises:
        Unavailable: PostgreSQL does not answer, or another has held the lock for ten seconds.
    """
    path = root / FOLDER / files.safe_name(fleet, "fleet") / LIVE
    with begin(engine) as connection:
        connection.execute(sa.text(f"SET LOCAL lock_timeout = {LOCK_TIMEOUT_MS}"))
        lock = sa.func.pg_advisory_xact_lock(PROJECTION_LOCK, sa.func.hashtext(fleet))
        connection.execute(sa.select(lock))
        champion = _current(connection, fleet)
        if champion is None:
            path.unlink(missing_ok=True)
        else:
            files.write_json(path, champion)
    return champion


def _standing(moves: Iterable[Champion]) -> list[str]:
    """The versions that one can go back through, the live one last."""
    versions: list[str] = []
    for step in moves:
        if step.action is Action.ROLLBACK and step.version in versions:
            while versions[-1] != step.version:
                versions.pop()
        elif versions[-1:] != [step.version]:
            versions.append(step.version)
    return versions


def _current(connection: sa.Connection, fleet: str) -> Champion | None:
    return next(iter(_read(connection, f"{_LIVE} AND fleet = :fleet", fleet=fleet)), None)


def _read(connection: sa.Connection, condition: str, **parameters: object) -> tuple[Champion, ...]:
    rows = connection.execute(
        sa.text(
            "SELECT fleet, version, generation, from_at AS promoted_at, promoted_by, reason, action"  # noqa: S608
            f" FROM champion_history WHERE {condition}"
        ),
        parameters,
    )
    return tuple(msgspec.convert(row._asdict(), Champion) for row in rows)


def _tell(client: redis.Redis | None, champion: Champion) -> None:
    if client is None:
        return
    try:
        client.publish(CHANNEL, msgspec.json.encode(champion))
    except redis.RedisError as error:
        swallow("release_channel", error, "serving learns of the move by looking")


def _who_won(winner: Champion | None, fleet: str, version: str, expected: str) -> str:
    if winner is None:
        return (
            f"fleet {fleet!r} has no champion yet, and moving it to {version} expected generation "
            f"{expected}; expect 0"
        )
    return (
        f"the champion of fleet {fleet!r} was not moved to {version}: generation {expected} was "
        f"expected, but {winner.promoted_by} made {winner.version} live (generation "
        f"{winner.generation}, {winner.promoted_at:%Y-%m-%d %H:%M:%S} UTC: {winner.reason}); "
        "look at that one, then decide again"
    )


_LIVE = "(fleet, generation) IN (SELECT fleet, generation FROM champions)"

# Times grow with generations, even when the clock is set back: "live at t" has one answer.
_UPDATE = """
    UPDATE champions SET
        version = :version, generation = generation + 1, promoted_by = :by, reason = :reason,
        promoted_at = greatest(clock_timestamp(), promoted_at + interval '1 microsecond')
    WHERE fleet = :fleet AND generation = :expected
    RETURNING generation, promoted_at
"""
_INSERT = """
    INSERT INTO champions (fleet, version, generation, promoted_at, promoted_by, reason)
    VALUES (:fleet, :version, 1, clock_timestamp(), :by, :reason)
    ON CONFLICT DO NOTHING
    RETURNING generation, promoted_at
"""
_END_NOMINATION = "DELETE FROM challengers WHERE fleet = :fleet AND version = :version"
