"""Feature rows of many requests, put to the model at once.

What belongs here: waiting for each other, which lasts no longer than what the event loop has to do
anyway. What does not: the requests (``inference``), the model (``rul_core.model``).

A call costs the model as much as ten rows do. Requests that came while the loop was busy are all
begun in its next turn, so by its end their rows are here, and nobody waited for the clock. An
answer does not depend on the rows beside it.
"""

import asyncio
from itertools import groupby

import numpy as np

from rul_core.model import RulModel

_Asked = tuple[RulModel, np.ndarray, asyncio.Future[np.ndarray]]


class Gathering:
    """Gathers rows; used from the event loop's thread."""

    def __init__(self) -> None:
        self._waiting: list[_Asked] = []

    def figures(self, model: RulModel, rows: np.ndarray) -> asyncio.Future[np.ndarray]:
        """``table`` of the rows, soon."""
        loop = asyncio.get_running_loop()
        answer: asyncio.Future[np.ndarray] = loop.create_future()
        if not self._waiting:
            loop.call_soon(self._answer)
        self._waiting.append((model, rows, answer))
        return answer

    def _answer(self) -> None:
        waiting, self._waiting = self._waiting, []
        for _, asked in groupby(waiting, key=lambda each: id(each[0])):
            _tell(list(asked))


def _tell(asked: list[_Asked]) -> None:
    """Answer what one model is asked."""
    try:
        found = table(asked[0][0], np.concatenate([rows for _, rows, _ in asked]))
    except Exception as error:  # whoever waits is told
        for _, _, answer in asked:
            if not answer.done():
                answer.set_exception(error)
        return
    first = 0
    for _, rows, answer in asked:
        if not answer.done():
            answer.set_result(found[first : first + len(rows)])
        first += len(rows)


def table(model: RulModel, rows: np.ndarray) -> np.ndarray:
    """(n, figures) float64: ``RulModel.figures`` as the columns of a table."""
    return np.stack(list(model.figures(rows).values()), axis=1)
