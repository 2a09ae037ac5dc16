"""From rows that were sent to kept readings, and to what is said of their units now.

What belongs here: one transaction for the rows of many requests at once. What does not: what
becomes of each row (``batch``), gathering requests (``writer``), the parts (``rul_store``,
``rul_core``).

The rows of a unit's lives are locked first, in the order of their names; so one transaction at a
time adds to a life, whichever process runs it, and the state that it leaves in Redis bears its
token. A state without the token of the life's last transaction is not looked at: the life is then
followed from its readings. The ledger's chain is locked last and shortly.

What is said bears PostgreSQL's time, read once the lives are locked: of two prognoses of one cycle
the later one counts, whatever the clocks of the instances say that gave them.
"""

import secrets
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

import polars as pl
import sqlalchemy as sa

from rul_core.following import Followed
from rul_core.prognose import judge
from rul_core.prognosis import Seen
from rul_core.schema import CYCLE, LIFE, UNIT, Fleet
from rul_serving import saying
from rul_serving.batch import Batch, Life, Receipt, Sent
from rul_serving.problems import Kind, Refusal
from rul_store import histories, lives, readings
from rul_store.database import begin, pipelined
from rul_store.lake import Lake, lake_needed
from rul_store.models import LoadedModel
from rul_store.states import Kept, States
from rul_store.swallowed import swallow


class Ingest:
    """Takes in what is sent.

    Args:
        root: The data root.
        states: Where units' states are kept.
    """

    def __init__(self, root: Path, states: States) -> None:
        self._lake, self._states = Lake(root), states
        self._landed = histories.Landed(self._lake)

    def take(
        self,
        engine: sa.Engine,
        fleet: Fleet,
        served: LoadedModel | None,
        sent: Sequence[Sent],
        *,
        atomic: bool = False,
    ) -> list[Receipt]:
        """Keep rows and record what is said of their units: all of it, or after an error nothing.

        Args:
            engine: The database.
            fleet: Their fleet.
            served: The model that answers; without one, nothing is said.
            sent: By request.
            atomic: Refuse everything where a row cannot be kept.

        Returns:
            A receipt a request.

        Raises:
            Refusal: ``atomic``, and a row cannot be kept.
            Unavailable: PostgreSQL does not answer.
        """
        receipts = [Receipt(flaws=list(each.rows.flaws)) for each in sent]
        with begin(engine) as connection:
            landed_rows = self._landed.rows(connection, fleet.name)
            batch = Batch(connection, self._lake, fleet, receipts, landed_rows)
            batch.place(sent)
            known = self._known(batch, served)
            batch.keep({life: kept.life.cycle for life, kept in known.items()})
            batch.set_conflicts_aside(sent)
            if atomic:
                _refuse_flawed(receipts)
            states = self._say(batch, served, known, sent) if batch.grown else []
        if served is not None:
            self._states.keep(fleet.name, served.model.feature_spec, states)
        for receipt in receipts:
            receipt.flaws.sort(key=lambda flaw: flaw.index or 0)
        return receipts

    def _known(self, batch: Batch, served: LoadedModel | None) -> dict[Life, Kept]:
        """The lives whose state is known, as they stand before the batch."""
        if served is None:
            return {}
        found = self._states.find(batch.fleet.name, served.model.feature_spec, batch.lives)
        known = {}
        for life, kept in zip(batch.lives, found, strict=True):
            if life in batch.begun and not batch.landed_rows:
                start = served.model.follower.start(*life)
                known[life] = Kept(token=0, landed_rows=0, life=start)
            elif (
                kept is not None
                and kept.token == batch.standing[life].token
                and kept.landed_rows == batch.landed_rows
            ):
                known[life] = kept
        return known

    def _say(
        self,
        batch: Batch,
        served: LoadedModel | None,
        known: Mapping[Life, Kept],
        sent: Sequence[Sent],
    ) -> list[Kept]:
        """Record what is said of the units; give the states that their lives are in now."""
        token = secrets.randbits(63)
        *_, ((last_seq, now),) = pipelined(
            batch.connection,
            *batch.unsent,
            lives.marking(batch.fleet.name, batch.grown, token),
            readings.LAST_SEQ_AND_TIME,
        )
        if served is None:
            return []
        seen = Seen(landed_rows=batch.landed_rows, sent_seq=last_seq)
        newest = [life for life in batch.grown if batch.running.get(life[0]) == life[1]]
        whole = self._read(batch, served, batch.late, seen) if batch.late else None
        try:
            followed = _follow(batch, served, known, whole)
            said = judge(
                served.model,
                [followed[life] for life in newest],
                version=served.version,
                now=now,
                seen=seen,
            )
        except Exception as error:  # whatever a model does wrong is an answer of its own
            swallow("inference", error, "the units are judged one by one; their readings are kept")
            whole = self._read(batch, served, newest, seen)
            ends = whole.group_by(UNIT, LIFE).agg(pl.col(CYCLE).max()).rows()
            cycles = {(unit, life): cycle for unit, life, cycle in ends}
            pairs = saying.follow(served, cycles, {}, whole, seen, now)
            followed = {life: one for life, (one, _) in pairs.items() if one is not None}
            said = [pairs[life][1] for life in newest]
        asked = batch.requests()
        said = [
            saying.traced(one, sent[asked[life][-1]].trace_id)
            for life, one in zip(newest, said, strict=True)
        ]
        said = saying.record(batch.connection, batch.fleet, said)
        for life, one in zip(newest, said, strict=True):
            for request in asked[life]:
                batch.receipts[request].prognoses.append(one)
        return [
            Kept(token=token, landed_rows=batch.landed_rows, life=life)
            for life in followed.values()
        ]

    def _read(
        self, batch: Batch, served: LoadedModel, of: Iterable[Life], seen: Seen
    ) -> pl.DataFrame:
        """All readings of some lives."""
        with lake_needed():
            return histories.read(
                batch.connection, self._lake, served.model.fleet, sorted(of), seen
            )


def _follow(
    batch: Batch, served: LoadedModel, known: Mapping[Life, Kept], whole: pl.DataFrame | None
) -> dict[Life, Followed]:
    """The lives that have new readings, as far as these go; ``whole`` are those of late ones."""
    follower = served.model.follower
    onward, following = batch.following(served.model.fleet.channels)
    followed = follower.follow([known[life].life for life in onward], following)
    if whole is not None:
        followed += follower.follow_frame(whole)
    return {(life.unit, life.life): life for life in followed}


def _refuse_flawed(receipts: Sequence[Receipt]) -> None:
    flaws = [flaw for receipt in receipts for flaw in receipt.flaws]
    if flaws:
        detail = f"{len(flaws)} readings cannot be kept, so none was; {flaws[0].message}"
        raise Refusal(Kind.INVALID_READINGS, detail, flaws)
