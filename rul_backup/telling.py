"""Telling whoever asked what is done, and what is passed over.

What belongs here: that. What does not: how it is shown (``rul_cli``).
"""

import time
from collections.abc import Callable
from typing import TypeVar

Result = TypeVar("Result")
Tell = Callable[[str, float | None], None]
"""Told of each step when it is done: what, and the seconds that it took; and, without seconds, of
what else is worth knowing."""


def nobody(_what: str, _seconds: float | None) -> None:
    """Whom it does not concern."""


def timed(tell: Tell, what: str, step: Callable[[], Result]) -> Result:
    """Do a step, and tell what it was and how long it took."""
    started = time.monotonic()
    result = step()
    tell(what, time.monotonic() - started)
    return result
