"""What the sender of readings is told: what became of them, or why none can be kept.

What belongs here: the answer that a receipt is. What does not: keeping readings (``ingest``), the
ways on which the answer goes out (``routes.readings``, ``shortcut``).
"""

from datetime import UTC, datetime

from rul_serving.answers import Received
from rul_serving.batch import Receipt
from rul_serving.problems import Kind, Refusal
from rul_serving.rows import Rows

CLOCK_TOLERANCE_SECONDS = 300.0
"""How far ahead a sender's clock may be before it is told."""


def received(fleet: str, sent: Rows, receipt: Receipt) -> Received:
    """The answer to readings that were taken.

    Raises:
        Refusal: None of them can be kept.
    """
    if receipt.flaws and not receipt.new and not receipt.repeated:
        detail = f"none of {len(receipt.flaws)} readings can be kept; {receipt.flaws[0].message}"
        raise Refusal(Kind.INVALID_READINGS, detail, receipt.flaws)
    return Received(
        fleet=fleet,
        new=receipt.new,
        repeated=receipt.repeated,
        conflicts=receipt.conflicts,
        errors=receipt.flaws,
        warnings=_clock_warnings(sent),
        prognoses=receipt.prognoses,
    )


def _clock_warnings(sent: Rows) -> list[str]:
    newest = max((time for time in sent.times if time is not None), default=None)
    ahead = (newest - datetime.now(UTC)).total_seconds() if newest else 0.0
    if ahead <= CLOCK_TOLERANCE_SECONDS:
        return []
    return [
        f"the newest reading's time is {ahead:.0f} s ahead of the service's clock; see that the "
        "sender's clock is right, since the age of data is told by it"
    ]
