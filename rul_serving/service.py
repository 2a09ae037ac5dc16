"""All that the routes use, made once for the life of the application.

What belongs here: putting the parts together, finding a fleet by name. What does not: the parts.
"""

import asyncio
import os
import time
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Self

from rul_core.errors import Unavailable
from rul_core.schema import Fleet
from rul_serving import metrics
from rul_serving.access import Access
from rul_serving.database import Database
from rul_serving.fleetwide import TURN_SECONDS, FleetwideMetrics
from rul_serving.gathering import Gathering
from rul_serving.ingest import Ingest
from rul_serving.instance import Instance
from rul_serving.limits import Limit, Limits, Rate
from rul_serving.live import Live
from rul_serving.moves import Moves
from rul_serving.past import Past
from rul_serving.problems import Kind, Refusal
from rul_serving.refresh import Refresh
from rul_serving.released import listen
from rul_serving.served import ServedModels
from rul_serving.settings import AccessMode, ServingSettings
from rul_serving.shadow import Shadow
from rul_serving.threads import Lane
from rul_serving.upkeep import keep_doing
from rul_serving.writer import Writer
from rul_store import advisories, current, fleets, idempotency, shadow
from rul_store.cache import connect_redis
from rul_store.registry import BundleStore
from rul_store.states import TIMEOUT_SECONDS, States
from rul_store.versions import Inspector

REMEMBERED_SECONDS = 2.0
"""How old a fleet's description may be."""


UPKEEP = (
    ("idempotency_removal", idempotency.remove_expired, 600.0),
    ("advisory_upkeep", advisories.tend, 5.0),
    ("shadow_removal", shadow.remove_old, 600.0),
)
"""What is done again and again: its name, the work, how often."""


@dataclass(frozen=True)
class Service:
    """What answers are made with."""

    settings: ServingSettings
    database: Database
    models: ServedModels
    moves: Moves
    shadow: Shadow
    bundles: BundleStore
    inspector: Inspector
    access: Access
    limits: Limits
    live: Live
    writer: Writer
    fleetwide: FleetwideMetrics
    past: Past
    descriptions: "Descriptions"
    gathering: Gathering
    """For inference of a few rows."""
    disk: Lane
    """For small files of the data root."""
    computing: Lane
    """For inference: a thread a core, so that more questions wait instead of slowing all."""

    @classmethod
    @asynccontextmanager
    async def running(cls, settings: ServingSettings, instance: Instance) -> AsyncGenerator[Self]:
        """A service that follows the champions until the end of the context."""
        seconds = settings.database_timeout_seconds
        database = Database(settings.database_url.get_secret_value(), seconds)
        models = ServedModels(settings.root, database)
        access = Access(database if settings.access is AccessMode.KEYS else None)
        limits = Limits(
            {
                Limit.REQUESTS: Rate(settings.requests_per_second, settings.requests_burst),
                Limit.SENDINGS: Rate(settings.sendings_per_second, settings.sendings_burst),
            },
            settings.redis_url,
        )
        redis_url = settings.redis_url.get_secret_value() if settings.redis_url else None
        states = States(
            connect_redis(redis_url, timeout_seconds=TIMEOUT_SECONDS) if redis_url else None
        )
        metrics.WORKERS.set(1)
        channel = connect_redis(redis_url) if redis_url else None
        bundles = BundleStore(settings.root)
        live = Live(
            database,
            access,
            redis_url,
            most=settings.max_streams,
            most_of_one=settings.max_streams_of_one,
        )
        challengers = Shadow(settings.root, database, models)
        ingest = Ingest(settings.root, states)
        writer = Writer(database, ingest, models, live.tell, challengers.offer)
        fleetwide = FleetwideMetrics(database, settings.root, models, instance)
        disk = Lane("disk", "the data root", 4, seconds)
        computing = Lane("inference", "inference", os.cpu_count() or 1)
        background = [
            asyncio.create_task(keep_doing(work, database, every_seconds, called=name))
            for name, work, every_seconds in (
                *UPKEEP,
                ("fleetwide_turn", fleetwide.take_turn, TURN_SECONDS),
                ("audit_walk", fleetwide.walk_audit, TURN_SECONDS),
            )
        ]
        try:
            async with (
                models.kept_current(settings.model_poll_seconds),
                access.kept_current(settings.admin_key),
                limits.connected(),
                live.running(),
                writer.running(),
            ):
                refresh = Refresh(
                    settings.root, states, database, models, writer, instance, live.tell
                )
                background += [
                    asyncio.create_task(work) for work in (refresh.run(), challengers.run(writer))
                ]
                if redis_url is not None:
                    background.append(asyncio.create_task(listen(redis_url, models.look_soon)))
                yield cls(
                    settings=settings,
                    database=database,
                    models=models,
                    moves=Moves(settings.root, database, models, channel),
                    shadow=challengers,
                    bundles=bundles,
                    inspector=Inspector(bundles),
                    access=access,
                    limits=limits,
                    live=live,
                    writer=writer,
                    fleetwide=fleetwide,
                    past=Past(settings.root, database, computing, models),
                    descriptions=Descriptions(settings.root, disk, database),
                    gathering=Gathering(),
                    disk=disk,
                    computing=computing,
                )
        finally:
            for task in background:
                task.cancel()
            await asyncio.gather(*background, return_exceptions=True)
            await fleetwide.give_back()
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
        return await self.descriptions.get(name)


class Descriptions:
    """Fleets as they are described now, or were a moment ago.

    Args:
        root: The data root.
        disk: Where it is read.
        database: Knows of fleets that had a description once.
    """

    def __init__(self, root: Path, disk: Lane, database: Database) -> None:
        self._root, self._disk, self._database = root, disk, database
        self._read: dict[str, tuple[float, Fleet]] = {}

    def known(self, name: str) -> Fleet | None:
        """The description, where it was read a moment ago."""
        until, fleet = self._read.get(name, (0.0, None))
        return None if time.monotonic() > until else fleet

    async def names(self) -> tuple[str, ...]:
        """All fleets that have one, sorted.

        Raises:
            Unavailable: None has, and units are known: the data root is away, not empty.
        """
        found = await self._disk.run(fleets.names, self._root)
        if not found and (known := await self._database.ask(current.fleets)):
            raise Unavailable(
                f"{self._root / fleets.FOLDER} describes no fleet, and units of "
                f"{', '.join(known)} are known; mount the data root, or restore it from a backup"
            )
        return found

    async def get(self, name: str) -> Fleet:
        """The description.

        Raises:
            FleetError: It cannot be used.
            Refusal: There is no such fleet.
            Unavailable: The data root is away.
        """
        fleet = self.known(name)
        if fleet is None:
            described = await self.names()
            if name not in described:
                raise Refusal(
                    Kind.UNKNOWN_FLEET,
                    f"there is no fleet {name!r} (fleets: {', '.join(described) or 'none'}); "
                    f"describe it with `rul fleet init {name} FILE`",
                )
            fleet = await self._disk.run(fleets.load, self._root, name)
            self._read[name] = (time.monotonic() + REMEMBERED_SECONDS, fleet)
        return fleet
