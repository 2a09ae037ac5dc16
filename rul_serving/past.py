"""Recorded prognoses computed again, to compare or to explain them.

What belongs here: which thread does what. What does not: the steps (``rul_store.replay``), the
explanation (``rul_core.explain``). Nothing is written.
"""

from pathlib import Path

import msgspec
import polars as pl

from rul_core import explain
from rul_core.errors import ReplayError, StoreError, Unavailable
from rul_core.prognosis import Prognosis
from rul_serving.database import Database
from rul_serving.problems import Kind, Refusal
from rul_serving.served import ServedModels
from rul_serving.threads import Lane
from rul_store import ledger, replay
from rul_store.lake import Lake
from rul_store.ledger import Recorded
from rul_store.models import LoadedModel
from rul_store.replay import Replayed, Versions


class Past:
    """Computes recorded prognoses again.

    Args:
        root: The data root.
        database: Has the readings that were sent.
        computing: Where models are loaded and applied.
        models: Those that answer need not be loaded again.
    """

    def __init__(
        self, root: Path, database: Database, computing: Lane, models: ServedModels
    ) -> None:
        self._lake, self._versions = Lake(root), Versions(root)
        self._database, self._computing, self._models = database, computing, models

    async def replay(self, entry: Recorded) -> Replayed:
        """Compute a ledger entry again, and compare it bit for bit.

        Raises:
            Unavailable: PostgreSQL does not answer.
        """
        try:
            loaded, readings = await self._source(entry.prognosis)
        except Unavailable:
            raise
        except StoreError as error:
            return replay.impossible(entry, error)
        again = await self._computing.run(replay.recompute, loaded, readings, entry.prognosis)
        return replay.compare(entry, again)

    async def explained(self, said: Prognosis) -> Prognosis:
        """A recorded prognosis with its explanation; without figures there is nothing to explain.

        Raises:
            Refusal: What it was computed from is not there any more, or gives something else.
            Unavailable: PostgreSQL does not answer.
        """
        if said.rul_cycles is None:
            return said
        try:
            loaded, readings = await self._source(said)
            return await self._computing.run(_explained, said, loaded, readings)
        except Unavailable:
            raise
        except StoreError as error:
            raise Refusal(Kind.IRREPRODUCIBLE, str(error)) from error

    async def _source(self, said: Prognosis) -> tuple[LoadedModel, pl.DataFrame]:
        """The model and the readings that a prognosis was computed from.

        Raises:
            StoreError: One of them is not there any more.
        """
        version, served = replay.version_of(said), self._models.get(said.fleet)
        if served is not None and served.loaded.version == version:
            loaded = served.loaded
        else:
            loaded = await self._computing.run(self._versions.load, said.fleet, version)
        readings = await self._database.ask(
            replay.readings_of, self._lake, loaded.model.fleet, said
        )
        return loaded, readings


def _explained(said: Prognosis, loaded: LoadedModel, readings: pl.DataFrame) -> Prognosis:
    plain = ledger.named(msgspec.structs.replace(said, contributions=()))
    if replay.recompute(loaded, readings, plain) != plain:
        raise ReplayError("its readings and model give something else now; replay its ledger entry")
    return explain.explained(said, loaded.model, readings, loaded.trajectories)
