"""The answer to a what-if question: nothing is kept, nothing but the question is looked at.

What belongs here: from a checked question to its prognoses. What does not: reading and refusing
the body (``windows``), which model is served (``served``), the rules of a prognosis
(``rul_core.prognose``).
"""

from collections.abc import Sequence
from datetime import UTC, datetime

import polars as pl
import structlog

from rul_core.prognose import not_configured, prognose
from rul_core.prognosis import Prognosis, Provenance, State
from rul_core.schema import Fleet
from rul_serving import metrics, tracing
from rul_serving.windows import PrognosisRequest, to_frame
from rul_store.models import LoadedModel
from rul_store.swallowed import swallow

_log = structlog.stdlib.get_logger(__name__)


def answer(question: PrognosisRequest, fleet: Fleet, loaded: LoadedModel | None) -> list[Prognosis]:
    """One prognosis a unit, in the question's order.

    Args:
        question: Of units of the fleet.
        fleet: Its description; the model's own where there is a model.
        loaded: The served model; without one every unit is ``not_configured``.

    Raises:
        Refusal: The readings contradict themselves or the fleet.
    """
    readings = to_frame(question, fleet)
    units = [window.unit for window in question.units]
    now = datetime.now(UTC)
    with metrics.PREDICTION_SECONDS.time():
        if loaded is None:
            said = not_configured(fleet, units, now)
        else:
            said = _apply(loaded, readings, units, now, explained=question.explain)
    metrics.count(said)
    by_unit = {prognosis.unit: prognosis for prognosis in said}
    return [by_unit[unit] for unit in units]


def _apply(
    loaded: LoadedModel,
    readings: pl.DataFrame,
    units: Sequence[str],
    now: datetime,
    *,
    explained: bool,
) -> list[Prognosis]:
    trace_id = tracing.trace_id()
    try:
        return prognose(
            loaded.model,
            readings,
            version=loaded.version,
            now=now,
            explained=explained,
            trace_id=trace_id,
        )
    except Exception as error:
        # Whatever a model does wrong is an answer of its own, with a state that people know.
        _log.exception("inference failed", fleet=loaded.model.fleet.name, version=loaded.version)
        swallow("inference", error, "the units are in model_error", told=True)
        return [
            Prognosis(
                fleet=loaded.model.fleet.name,
                unit=unit,
                state=State.MODEL_ERROR,
                detail=f"inference failed; the log has the cause under trace id {trace_id}",
                provenance=Provenance(model_version=loaded.version, trace_id=trace_id),
                computed_at=now,
            )
            for unit in units
        ]
