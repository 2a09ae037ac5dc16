"""What is said of units, on its way into the ledger: the same whoever says it.

What belongs here: prognoses as they are recorded, and recording them. What does not: when it is
done, and of which readings (``ingest``, ``refresh``).
"""

from collections.abc import Mapping, Sequence
from datetime import datetime

import msgspec
import polars as pl
import sqlalchemy as sa

from rul_core.following import Followed
from rul_core.prognose import judge
from rul_core.prognosis import Prognosis, Provenance, Seen, State
from rul_core.schema import LIFE, UNIT, Fleet
from rul_store import advisories
from rul_store.models import LoadedModel
from rul_store.swallowed import swallow

Life = tuple[str, int]
"""Unit and life."""


def follow(
    model: LoadedModel,
    lives: Mapping[Life, float | None],
    known: Mapping[Life, Followed],
    whole: pl.DataFrame,
    seen: Seen,
    now: datetime,
    *,
    component: str = "inference",
) -> dict[Life, tuple[Followed | None, Prognosis]]:
    """What a model says of lives, and how far each was followed.

    Args:
        model: The model.
        lives: Those that are asked of, with the cycle up to which each is known to have come.
        known: Those of them that were followed already.
        whole: The readings of the others; a life without any is left out of the answer.
        seen: For provenance.
        now: UTC.
        component: What counts the errors of a model: a life that it fails on is in `model_error`,
            and none beside it.
    """
    fleet, version = model.model.fleet.name, model.version
    try:
        followed = {(one.unit, one.life): one for one in model.model.follower.follow_frame(whole)}
        followed |= known
        said = judge(model.model, list(followed.values()), version=version, now=now, seen=seen)
    except Exception as error:  # whatever a model does wrong is an answer of its own
        if len(lives) > 1:
            return {
                key: pair
                for life, cycle in lives.items()
                for key, pair in follow(
                    model,
                    {life: cycle},
                    {life: known[life]} if life in known else {},
                    whole.filter((pl.col(UNIT) == life[0]) & (pl.col(LIFE) == life[1])),
                    seen,
                    now,
                    component=component,
                ).items()
            }
        swallow(component, error, "the unit is in model_error")
        ((life, cycle),) = lives.items()
        return {life: (None, failed(fleet, model, life, seen, now, cycle=cycle))}
    return {life: (one, word) for (life, one), word in zip(followed.items(), said, strict=True)}


def failed(
    fleet: str,
    served: LoadedModel,
    life: tuple[str, int],
    seen: Seen,
    now: datetime,
    *,
    cycle: float | None = None,
) -> Prognosis:
    """What is said of a life where inference failed, at the cycle up to which it is known."""
    return Prognosis(
        fleet=fleet,
        unit=life[0],
        life=life[1],
        cycle=cycle,
        state=State.MODEL_ERROR,
        detail="inference failed; the log has the cause under the trace id",
        provenance=Provenance(model_version=served.version, seen=seen),
        computed_at=now,
    )


def traced(prognosis: Prognosis, trace_id: str) -> Prognosis:
    """The prognosis, which says by what request it came about."""
    provenance = msgspec.structs.replace(prognosis.provenance, trace_id=trace_id)
    return msgspec.structs.replace(prognosis, provenance=provenance)


def record(connection: sa.Connection, fleet: Fleet, said: Sequence[Prognosis]) -> list[Prognosis]:
    """Write prognoses to the ledger, and open and move advisories by them.

    The rows of the units' lives are locked before; call it last in the transaction.

    Returns:
        Each as it stands in the ledger.
    """
    return advisories.say(connection, fleet, said).said
