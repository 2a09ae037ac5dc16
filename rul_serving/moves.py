"""The champion moved over HTTP: proven first, moved in one transaction, answering at once.

What belongs here: the order of these. What does not: whether it may move (``rul_store.versions``,
``rul_store.champions``), who may move it (``routes``), exchanging models (``served``).

The version is loaded before it is moved to, so one that cannot answer is refused while the one
that can stays; and this instance answers with it as soon as the move is committed. The others are
told over the release channel, and look by themselves.
"""

from collections.abc import Callable, Collection
from pathlib import Path

import redis

from rul_core.errors import NotProjected
from rul_serving.answers import Moved
from rul_serving.database import Database
from rul_serving.served import Proven, ServedModels
from rul_store import champions, versions
from rul_store.champions import Champion
from rul_store.deeds import Doer
from rul_store.swallowed import swallow


class Moves:
    """Moves champions.

    Args:
        root: The data root.
        database: Decides.
        models: Those that answer.
        channel: The release channel, where there is one.
    """

    def __init__(
        self, root: Path, database: Database, models: ServedModels, channel: redis.Redis | None
    ) -> None:
        self._root, self._database, self._models = root, database, models
        self._channel = channel

    async def promote(
        self,
        fleet: str,
        version: str,
        *,
        reason: str,
        expected: Collection[int] | None,
        despite_gate: bool,
        by: Doer,
    ) -> Moved:
        """Make a version live; arguments and errors as of ``versions.promote``."""
        proven = await self._models.prove(fleet, version)
        return await self._move(
            proven,
            versions.promote,
            self._root,
            fleet,
            version,
            by=by.principal,
            reason=reason,
            expected=expected,
            despite_gate=despite_gate,
            trace_id=by.trace_id,
            redis_client=self._channel,
        )

    async def roll_back(
        self, fleet: str, *, reason: str, expected: Collection[int] | None, by: Doer
    ) -> Moved:
        """Make the version before live again; arguments and errors as of ``champions.rollback``."""
        moves = await self._database.ask(champions.history, fleet)
        version, generation = champions.way_back(moves, fleet, expected)
        proven = await self._models.prove(fleet, version)
        return await self._move(
            proven,
            champions.rollback,
            self._root,
            fleet,
            by=by.principal,
            reason=reason,
            expected={generation},
            trace_id=by.trace_id,
            redis_client=self._channel,
        )

    async def _move(
        self, proven: Proven, step: Callable[..., Champion], *args: object, **named: object
    ) -> Moved:
        warning = ""
        try:
            champion = await self._database.ask(step, *args, **named)
        except NotProjected as error:
            swallow("champion_projection", error, "the database says what is live")
            champion, warning = error.champion, str(error)
        self._models.adopt(champion, proven)
        return Moved(champion=champion, warning=warning)
