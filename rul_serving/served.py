"""The models that answer: the champion of every fleet, exchanged while requests are answered.

What belongs here: seeing that a champion moved, loading it beside the one that serves, and the
exchange. What does not: moving champions (``rul_store.champions``), what a bundle must prove before
it may serve (``rul_store.models``).

PostgreSQL says what is live; while it does not answer, ``live.json`` does, and then the champion
never goes back to an earlier generation than the one that serves. A bundle that is missing, damaged
or answers otherwise than it did is refused: the old model stays and the service is degraded.
"""

import asyncio
import re
import time
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import NamedTuple

import msgspec
import structlog

from rul_core.errors import StoreError, Unavailable
from rul_core.schema import NAME_PATTERN
from rul_core.scoring import Regimes
from rul_serving.database import Database
from rul_serving.threads import Lane
from rul_store import champions
from rul_store.champions import Champion
from rul_store.models import LoadedModel, load_model
from rul_store.registry import FOLDER, BundleStore
from rul_store.swallowed import swallow

RETRY_SECONDS = 30.0
"""How long a refused version is left alone; a bundle may be restored meanwhile."""

_log = structlog.stdlib.get_logger(__name__)


class Served(msgspec.Struct, frozen=True, kw_only=True):
    """A model that answers for its fleet."""

    champion: Champion
    loaded: LoadedModel
    metrics: Regimes


class Proven(NamedTuple):
    """A model that may answer."""

    loaded: LoadedModel
    metrics: Regimes


class Refused(msgspec.Struct, frozen=True, kw_only=True):
    """A champion that may not answer."""

    champion: Champion | None
    """None where not even the pointer could be read."""
    reason: str
    until: float
    """On the monotonic clock: when it is looked at again."""


class ServedModels:
    """Which model answers for which fleet.

    Args:
        root: The data root.
        database: Says which version is live.
    """

    def __init__(self, root: Path, database: Database) -> None:
        self._root, self._database = root, database
        self._store = BundleStore(root)
        self._loading = Lane("models", "the model root", 1)
        self._moved = asyncio.Event()
        self._served: dict[str, Served] = {}
        self._refused: dict[str, Refused] = {}
        self._adoptions: dict[str, int] = {}
        self._adopted = 0
        self._watchers: list[asyncio.Event] = []

    def get(self, fleet: str) -> Served | None:
        """What answers for the fleet; none when nothing was ever released or could be loaded."""
        return self._served.get(fleet)

    @property
    def served(self) -> dict[str, Served]:
        """By fleet; a copy."""
        return dict(self._served)

    @property
    def refused(self) -> dict[str, Refused]:
        """By fleet, the champions that should answer and may not; a copy."""
        return dict(self._refused)

    def watch(self) -> asyncio.Event:
        """An event that is set whenever a model is exchanged, for its holder to clear."""
        event = asyncio.Event()
        self._watchers.append(event)
        return event

    def look_soon(self) -> None:
        """Look at once instead of at the next poll; from the event loop's thread."""
        self._moved.set()

    @asynccontextmanager
    async def kept_current(self, poll_seconds: float) -> AsyncGenerator[None]:
        """Serve what is live now, and follow the champions until the end of the context."""
        await self._look_and_survive()
        following = asyncio.create_task(self._follow(poll_seconds))
        try:
            yield
        finally:
            following.cancel()
            await asyncio.wait([following])

    async def prove(self, fleet: str, version: str) -> Proven:
        """A version, loaded beside the one that answers, which proved to be as it was made.

        Raises:
            UnknownVersion: There is no such version.
            BundleError: It may not answer.
        """
        return await self._loading.run(self._prove, fleet, version)

    def adopt(self, champion: Champion, proven: Proven) -> None:
        """Let a champion answer from now on that was made so here, without looking first."""
        serving = self._served.get(champion.fleet)
        if serving and serving.champion.generation > champion.generation:
            return  # another moved it meanwhile
        self._adopted += 1
        self._adoptions[champion.fleet] = self._adopted
        self._exchange(champion, proven)

    async def look(self) -> None:
        """Exchange every model whose champion moved; what goes wrong stays with its fleet."""
        before = self._adopted
        try:
            decided = await self._database.ask(champions.current_all)
        except Unavailable as error:  # the readiness of PostgreSQL is told by ``health``
            swallow("model_watcher", error, "live.json says what is live", told=True)
            decided = {}
        # A champion whose whole folder is away is refused and told, like one whose bundle is.
        for fleet in sorted({*await self._loading.run(self._fleets), *decided}):
            try:
                champion = decided.get(fleet) or await self._loading.run(self._projected, fleet)
            except (OSError, StoreError) as error:
                self._refuse(fleet, None, error)
                continue
            if champion is not None:
                await self._serve(champion, before)

    async def _follow(self, poll_seconds: float) -> None:
        while True:
            try:
                async with asyncio.timeout(poll_seconds):
                    await self._moved.wait()
            except TimeoutError:
                pass
            self._moved.clear()
            await self._look_and_survive()

    async def _look_and_survive(self) -> None:
        try:
            await self.look()
        except Exception as error:  # the service must outlive whatever befalls its watcher
            swallow("model_watcher", error, "the served models stay; looking again soon")

    def _fleets(self) -> list[str]:
        folders = (path.name for path in (self._root / FOLDER).glob("*/"))
        return sorted(name for name in folders if re.fullmatch(NAME_PATTERN, name))

    def _projected(self, fleet: str) -> Champion | None:
        champion, serving = champions.read_live(self._root, fleet), self._served.get(fleet)
        if champion and serving and champion.generation < serving.champion.generation:
            return serving.champion
        return champion

    async def _serve(self, champion: Champion, adopted_before: int) -> None:
        """Exchange the model, unless one was adopted since the database was asked."""
        fleet = champion.fleet
        if self._adoptions.get(fleet, 0) > adopted_before:
            return
        serving, refused = self._served.get(fleet), self._refused.get(fleet)
        if serving and serving.loaded.version == champion.version:
            self._refused.pop(fleet, None)
            if serving.champion != champion:
                self._served[fleet] = msgspec.structs.replace(serving, champion=champion)
            return
        if refused and refused.champion == champion and time.monotonic() < refused.until:
            return
        try:
            proven = await self._loading.run(self._prove, fleet, champion.version)
        except Exception as error:  # a bundle may be wrong in ways that nobody foresaw
            self._refuse(fleet, champion, error)
            return
        if self._adoptions.get(fleet, 0) <= adopted_before:
            self._exchange(champion, proven)

    def _exchange(self, champion: Champion, proven: Proven) -> None:
        fleet = champion.fleet
        serving = self._served.get(fleet)
        self._served[fleet] = Served(
            champion=champion, loaded=proven.loaded, metrics=proven.metrics
        )
        self._refused.pop(fleet, None)
        for event in self._watchers:
            event.set()
        _log.info(
            "model served",
            fleet=fleet,
            version=champion.version,
            instead_of=serving.loaded.version if serving else None,
        )

    def _prove(self, fleet: str, version: str) -> Proven:
        loaded = load_model(self._store, fleet, version)
        return Proven(loaded, loaded.metrics())

    def _refuse(self, fleet: str, champion: Champion | None, error: Exception) -> None:
        swallow("model_loading", error, "the model before stays", told=True)
        before = self._refused.get(fleet)
        self._refused[fleet] = Refused(
            champion=champion, reason=str(error), until=time.monotonic() + RETRY_SECONDS
        )
        if before is None or before.reason != str(error):
            serving = self._served.get(fleet)
            _log.error(
                "model refused",
                fleet=fleet,
                version=champion.version if champion else None,
                still_served=serving.loaded.version if serving else None,
                exc_info=error,
            )
