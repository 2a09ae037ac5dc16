"""Prognoses kept current: when the champion moves, every unit is prognosed anew.

What belongs here: walking through the units that are behind, a few at a time. What does not:
finding them (``rul_store.outdated``), recording what is said (``saying``), units whose readings
arrive (``ingest``), whole fleets in batch (``rul_assets``).

One process at a time does it, which holds a lease while there is work; when it is gone another goes
on, for what is done is in PostgreSQL. Lives are followed before anything is locked. Then they are
locked as ``ingest`` locks them, and what was computed is recorded of those alone to which nothing
was added meanwhile; the others have their prognosis by that, or are met again. So an arriving
reading waits for a few rows to be written, never for a model, and the newest reading wins.
"""

import asyncio
import os
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

import polars as pl
import sqlalchemy as sa
import structlog

from rul_core.following import Followed
from rul_core.prognosis import Prognosis, Seen
from rul_core.schema import LIFE, UNIT, Outcome
from rul_serving import metrics, saying
from rul_serving.database import Database
from rul_serving.instance import Instance
from rul_serving.saying import Life
from rul_serving.served import ServedModels
from rul_serving.writer import Writer
from rul_store import champions, histories, leases, lives, outdated, readings
from rul_store.database import begin, time_of
from rul_store.lake import Lake
from rul_store.models import LoadedModel
from rul_store.outdated import Outdated
from rul_store.states import Kept, States
from rul_store.swallowed import swallow

LEASE = "prognosis_refresh"
LEASE_SECONDS = 30.0
LOOK_SECONDS = 5.0
"""How often units that are behind are looked for, beside each time that a model is exchanged."""
STUCK_SECONDS = 60.0
"""The same after a walk that left as many behind as there were."""
UNITS = (25, 50, 100)
"""At a time: the fewest, the first, the most."""
LONG_SECONDS, SHORT_SECONDS = 0.5, 0.1
"""A step that takes longer is made smaller, one that takes less is made larger."""
REST = 2.0
"""Between steps: this many times what the last one took, so that others have the processor."""

_log = structlog.stdlib.get_logger(__name__)


class Step(NamedTuple):
    """What a step came to."""

    last: str
    """The last unit that it looked at."""
    said: list[Prognosis]


class Refresh:
    """Prognoses units anew that are behind the model that answers.

    Args:
        root: The data root.
        states: Where units' states are kept.
        database: Where readings and prognoses are.
        models: Those that answer.
        writer: Is given way to.
        instance: That this process belongs to.
        tell: Told the fleet's name once something new is said of its units; must not wait.
    """

    def __init__(
        self,
        root: Path,
        states: States,
        database: Database,
        models: ServedModels,
        writer: Writer,
        instance: Instance,
        tell: Callable[[str], None],
    ) -> None:
        self._lake, self._states = Lake(root), states
        self._landed = histories.Landed(self._lake)
        self._database, self._models, self._writer = database, models, writer
        self._tell = tell
        self._holder = f"{instance.name}/{os.getpid()}"
        self._walked: dict[str, str] = {}
        """By fleet: the version for which also the lives that nothing was sent of were met."""

    async def run(self) -> None:
        """Keep prognoses current until cancelled."""
        exchanged, failing = self._models.watch(), False
        while True:
            wait_seconds = LOOK_SECONDS
            try:
                if not await self.look():
                    wait_seconds = STUCK_SECONDS
            except Exception as error:  # units keep what was said; the walk goes on from there
                swallow("prognosis_refresh", error, "looking again soon", told=failing)
                failing = True
            else:
                failing = False
            try:
                async with asyncio.timeout(wait_seconds):
                    await exchanged.wait()
            except TimeoutError:
                pass
            exchanged.clear()

    async def look(self) -> bool:
        """Walk through every fleet with units behind; whether all that could be brought up are.

        Raises:
            Unavailable: PostgreSQL does not answer.
        """
        well = True
        for fleet, served in self._models.served.items():
            if fleet in self._models.refused:  # the champion is another, which is not here
                continue
            loaded = served.loaded
            behind = await self._database.work(outdated.count, fleet, loaded.version)
            if not behind and self._walked.get(fleet) == loaded.version:
                continue
            if not await self._hold():
                continue
            try:
                left = await self._walk(fleet, loaded, behind)
            finally:
                await self._database.work(leases.release, LEASE, self._holder)
            well = well and not left
        return well

    async def _walk(self, fleet: str, loaded: LoadedModel, behind: int) -> bool:
        """Once through the units, and again while that helps; whether some are left behind."""
        started, made, limit, trace_id = time.monotonic(), 0, UNITS[1], os.urandom(16).hex()
        while True:
            after = ""
            while True:
                await self._writer.gives_way()
                begun = time.monotonic()
                step = await self._database.work(
                    self.step,
                    loaded,
                    after,
                    limit=limit,
                    unheard=self._walked.get(fleet) != loaded.version,
                    trace_id=trace_id,
                )
                if step is None:
                    break
                metrics.count(step.said)
                if step.said:
                    self._tell(fleet)
                after, made = step.last, made + len(step.said)
                took = time.monotonic() - begun
                limit = _next_limit(limit, took)
                await asyncio.sleep(took * REST)
                if not await self._hold() or not self._answers(fleet, loaded):
                    return False  # another goes on, or another model does
            self._walked[fleet] = loaded.version
            left = await self._database.work(outdated.count, fleet, loaded.version)
            helped, behind = left < behind, left
            if not (behind and helped and self._answers(fleet, loaded)):
                break
        if made:
            _log.info(
                "prognoses made anew",
                fleet=fleet,
                version=loaded.version,
                units=made,
                left=behind,
                trace_id=trace_id,
                duration_seconds=round(time.monotonic() - started, 3),
            )
        return behind > 0

    def step(
        self,
        engine: sa.Engine,
        loaded: LoadedModel,
        after: str,
        *,
        limit: int,
        unheard: bool,
        trace_id: str,
    ) -> Step | None:
        """Prognose the next units that are behind.

        Args:
            engine: The database.
            loaded: By which model; nothing is done unless it is the champion's.
            after: The last unit that was looked at.
            limit: How many units.
            unheard: As of ``outdated.some``.
            trace_id: Finds the walk in the log; for provenance.

        Returns:
            None where there are no more.

        Raises:
            Unavailable: PostgreSQL does not answer.
        """
        fleet = loaded.model.fleet
        with begin(engine) as connection:
            if champions.live_version(connection, fleet.name) != loaded.version:
                return None
            found = outdated.some(
                connection, fleet.name, loaded.version, after=after, limit=limit, unheard=unheard
            )
            if not found:
                return None
            known, whole, seen = self._source(connection, loaded, found)
            now = time_of(connection)
        cycles = {(one.unit, one.life): one.cycle for one in found}
        pairs = saying.follow(loaded, cycles, known, whole, seen, now)
        with begin(engine) as connection:
            standing = lives.lock(connection, fleet.name, [one.unit for one in found])
            still = [
                one
                for one in found
                if one.life == max(standing[one.unit])
                and standing[one.unit][one.life].outcome is Outcome.RUNNING
                and standing[one.unit][one.life].token == one.token
                and (one.unit, one.life) in pairs
            ]
            said = [saying.traced(pairs[one.unit, one.life][1], trace_id) for one in still]
            said = saying.record(connection, fleet, said)
        followed = [
            Kept(token=one.token, landed_rows=seen.landed_rows or 0, life=life)
            for one in still
            if one.token is not None and (life := pairs[one.unit, one.life][0]) is not None
        ]
        self._states.keep(fleet.name, loaded.model.feature_spec, followed)
        return Step(found[-1].unit, said)

    def _source(
        self, connection: sa.Connection, loaded: LoadedModel, found: Sequence[Outdated]
    ) -> tuple[dict[Life, Followed], pl.DataFrame, Seen]:
        """States that are known and the readings of the other lives, as far as they had come."""
        fleet = loaded.model.fleet
        keys = [(one.unit, one.life) for one in found]
        frame = pl.DataFrame(keys, schema={UNIT: pl.String, LIFE: pl.Int64}, orient="row")
        seen = Seen(
            landed_rows=self._landed.rows(connection, fleet.name),
            # Whatever is added to one of these lives from now on has a higher number, and a token.
            sent_seq=max(readings.last_seqs(connection, fleet, frame)),
        )
        kept = self._states.find(fleet.name, loaded.model.feature_spec, keys)
        known = {
            (one.unit, one.life): state.life
            for one, state in zip(found, kept, strict=True)
            if state is not None
            and state.token == one.token
            and state.landed_rows == seen.landed_rows
        }
        others = sorted(set(keys) - set(known))
        return known, histories.read(connection, self._lake, fleet, others, seen), seen

    async def _hold(self) -> bool:
        return await self._database.work(leases.hold, LEASE, self._holder, LEASE_SECONDS)

    def _answers(self, fleet: str, loaded: LoadedModel) -> bool:
        served = self._models.get(fleet)
        return served is not None and served.loaded.version == loaded.version


def _next_limit(limit: int, took_seconds: float) -> int:
    if took_seconds > LONG_SECONDS:
        return max(UNITS[0], limit // 2)
    if took_seconds < SHORT_SECONDS:
        return min(UNITS[2], limit * 2)
    return limit
