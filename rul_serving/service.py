"""All that the routes use, made once for the life of the application.

What belongs here: putting the parts together, finding a fleet by name. What does not: the parts.
"""

import asyncio
import os
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Self

from rul_core.schema import Fleet
from rul_serving.database import Database
from rul_serving.problems import Kind, Refusal
from rul_serving.released import listen
from rul_serving.served import ServedModels
from rul_serving.settings import ServingSettings
from rul_serving.threads import Lane
from rul_store import fleets


@dataclass(frozen=True)
class Service:
    """What answers are made with."""

    settings: ServingSettings
    database: Database
    models: ServedModels
    disk: Lane
    """For small files of the data root."""
    computing: Lane
    """For inference: a thread a core, so that more questions wait instead of slowing all."""

    @classmethod
    @asynccontextmanager
    async def running(cls, settings: ServingSettings) -> AsyncGenerator[Self]:
        """A service that follows the champions until the end of the context."""
        seconds = settings.database_timeout_seconds
        database = Database(settings.database_url.get_secret_value(), seconds)
        models = ServedModels(settings.root, database)
        background = []
        try:
            async with models.kept_current(settings.model_poll_seconds):
                if settings.redis_url is not None:
                    url = settings.redis_url.get_secret_value()
                    background.append(asyncio.create_task(listen(url, models.look_soon)))
                yield cls(
                    settings=settings,
                    database=database,
                    models=models,
                    disk=Lane("the data root", 4, seconds),
                    computing=Lane("inference", os.cpu_count() or 1),
                )
        finally:
            for task in background:
                task.cancel()
            await asyncio.gather(*background, return_exceptions=True)
            await database.close()

    async def fleet(self, name: str) -> Fleet:
        """The fleet that the served model was made for; without a model, as it is described.

        Raises:
            FleetError: Its description cannot be used.
            Refusal: There is no such fleet.
        """
        served = self.models.get(name)
        if served is not None:
            return served.loaded.model.fleet
        return await self.disk.run(_described, self.settings.root, name)


def _described(root: Path, name: str) -> Fleet:
    known = fleets.names(root)
    if name not in known:
        raise Refusal(
            Kind.UNKNOWN_FLEET,
            f"there is no fleet {name!r} (fleets: {', '.join(known) or 'none'}); "
            f"describe it with `rul fleet init {name} FILE`",
        )
    return fleets.load(root, name)
