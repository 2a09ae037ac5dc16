"""Challengers in the shadow: they see what the champion sees, and nobody is told what they say.

What belongs here: loading challengers, and computing what they say of units whose readings
arrived. What does not: nominating them and keeping what they say (``rul_store.shadow``), judging
them (``rul_core.shadow``).

It begins after the champion's prognosis is committed and answered. Units wait in memory, each once
and with the newest reading, and are computed a few at a time while no readings wait; those that
find no place, or wait when the process ends, have no shadow of that reading. Nothing here can fail
or slow the champion's path but by the processor that it takes, which is a bounded share.
"""

import asyncio
import time
from collections.abc import Iterable, Mapping
from datetime import UTC, datetime
from itertools import islice
from pathlib import Path

import msgspec
import polars as pl
import sqlalchemy as sa
import structlog

from rul_core.prognosis import Prognosis, Seen
from rul_core.schema import CYCLE, LIFE, UNIT
from rul_serving import saying
from rul_serving.database import Database
from rul_serving.served import ServedModels
from rul_serving.writer import Writer
from rul_store import histories, shadow
from rul_store.database import begin
from rul_store.lake import Lake
from rul_store.models import LoadedModel
from rul_store.shadow import Nominee, Said
from rul_store.swallowed import swallow

LOOK_SECONDS = 2.0
"""How often nominations are looked at."""
RETRY_SECONDS = 30.0
"""How long a challenger that may not speak is left alone."""
UNITS = 100
"""At a time."""
MOST_WAITING = 20_000
"""Units of a fleet that wait; further ones have no shadow of that reading."""
REST = 3.0
"""Between steps: this many times what the last one took."""

_log = structlog.stdlib.get_logger(__name__)


class Beside(msgspec.Struct, frozen=True, kw_only=True):
    """A nominated challenger, as this process has it."""

    nominee: Nominee
    loaded: LoadedModel | None
    problem: str
    """Why it may not speak; empty where it does."""
    until: float
    """On the monotonic clock: when one that may not speak is looked at again."""


class Shadow:
    """Lets challengers speak.

    Args:
        root: The data root.
        database: Has the readings, and keeps what is said.
        models: Loads challengers as it loads champions.
    """

    def __init__(self, root: Path, database: Database, models: ServedModels) -> None:
        self._lake, self._database, self._models = Lake(root), database, models
        self._beside: dict[str, Beside] = {}
        self._waiting: dict[str, dict[str, Prognosis]] = {}
        self._some, self._nominated = asyncio.Event(), False

    def get(self, fleet: str) -> Beside | None:
        """The fleet's challenger, as this process has it."""
        return self._beside.get(fleet)

    def look_soon(self) -> None:
        """Look at nominations at once; from the event loop's thread."""
        self._nominated = True
        self._some.set()

    def offer(self, said: Iterable[Prognosis]) -> None:
        """Take note of what the champion said and is committed; from the event loop's thread."""
        for one in said:
            beside = self._beside.get(one.fleet)
            if beside is None or beside.loaded is None or one.cycle is None:
                continue
            waiting = self._waiting.setdefault(one.fleet, {})
            if one.unit in waiting or len(waiting) < MOST_WAITING:
                waiting[one.unit] = one
                self._some.set()

    async def run(self, writer: Writer) -> None:
        """Load challengers, and let them speak while no readings wait; until cancelled."""
        failing, look_at = False, 0.0
        while True:
            try:
                if self._nominated or time.monotonic() >= look_at:
                    self._nominated = False
                    await self.look()
                    look_at = time.monotonic() + LOOK_SECONDS
                await self._speak(writer)
            except Exception as error:  # the champion's path goes on whatever happens here
                swallow("shadow", error, "some readings have no shadow", told=failing)
                failing = True
                await asyncio.sleep(LOOK_SECONDS)
                continue
            failing = False
            if any(self._waiting.values()):
                continue
            try:
                async with asyncio.timeout(LOOK_SECONDS):
                    await self._some.wait()
            except TimeoutError:
                pass
            self._some.clear()

    async def look(self) -> None:
        """Load who was nominated, drop who is no challenger any more.

        Raises:
            Unavailable: PostgreSQL does not answer.
        """
        nominees = await self._database.work(shadow.nominees)
        for fleet in set(self._beside) - set(nominees):
            del self._beside[fleet]
            self._waiting.pop(fleet, None)
        for fleet, nominee in nominees.items():
            kept = self._beside.get(fleet)
            if kept is not None and kept.nominee == nominee:
                if kept.loaded is not None or time.monotonic() < kept.until:
                    continue
            else:
                self._waiting.pop(fleet, None)
            self._beside[fleet] = await self._load(nominee, kept)

    async def _load(self, nominee: Nominee, before: Beside | None) -> Beside:
        problem, loaded = "", None
        try:
            loaded = (await self._models.prove(nominee.fleet, nominee.version)).loaded
        except Exception as error:  # a bundle may be wrong in ways that nobody foresaw
            problem = str(error)
            told = before is not None and before.problem == problem
            swallow("challenger_loading", error, "it does not speak; the champion does", told=told)
        else:
            _log.info("challenger speaks", fleet=nominee.fleet, version=nominee.version)
        until = time.monotonic() + RETRY_SECONDS
        return Beside(nominee=nominee, loaded=loaded, problem=problem, until=until)

    async def _speak(self, writer: Writer) -> None:
        """Of some units of each fleet."""
        for fleet in list(self._waiting):
            waiting, beside = self._waiting[fleet], self._beside.get(fleet)
            if not waiting or beside is None or beside.loaded is None:
                self._waiting.pop(fleet)
                continue
            some = {unit: waiting.pop(unit) for unit in list(islice(waiting, UNITS))}
            await writer.gives_way()
            begun = time.monotonic()
            await self._database.work(self.step, beside.loaded, some)
            await asyncio.sleep((time.monotonic() - begun) * REST)

    def step(self, engine: sa.Engine, loaded: LoadedModel, said: Mapping[str, Prognosis]) -> None:
        """Compute and keep what a challenger says of the readings that the champion spoke of.

        Args:
            engine: The database.
            loaded: The challenger.
            said: By unit, what the champion said, as it stands in the ledger. What the champion
                said by the challenger's own version is left out.

        Raises:
            Unavailable: PostgreSQL does not answer.
        """
        of = {
            (one.unit, one.life): one
            for one in said.values()
            if one.life is not None and one.provenance.model_version != loaded.version
        }
        if not of:
            return
        fleet = loaded.model.fleet
        seen = Seen(
            landed_rows=max(one.provenance.seen.landed_rows or 0 for one in of.values()),
            sent_seq=max(one.provenance.seen.sent_seq or 0 for one in of.values()),
        )
        with begin(engine) as connection:
            whole = histories.read(connection, self._lake, fleet, sorted(of), seen)
        # Of some units more had come than of others: each is taken to where the champion spoke.
        ends = pl.DataFrame(
            [(unit, life, one.cycle) for (unit, life), one in of.items()],
            schema={UNIT: pl.String, LIFE: pl.Int64, "end": pl.Float64},
            orient="row",
        )
        whole = (
            whole.join(ends, on=[UNIT, LIFE], maintain_order="left")
            .filter(pl.col(CYCLE) <= pl.col("end"))
            .drop("end")
        )
        pairs = saying.follow(
            loaded,
            {life: one.cycle for life, one in of.items()},
            {},
            whole,
            seen,
            datetime.now(UTC),
            component="challenger",
        )
        kept = [
            Said(prognosis=prognosis, ledger_id=ledger_id)
            for life, (_, prognosis) in pairs.items()
            if (ledger_id := of[life].provenance.ledger_id) is not None
        ]
        with begin(engine) as connection:
            shadow.keep(connection, fleet, loaded.version, kept)
