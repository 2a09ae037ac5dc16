"""Errors that were survived on purpose: each is logged and counted, none is hidden.

What belongs here: the count, by component, which ``/metrics`` shows as
``rul_swallowed_errors_total``. What does not: deciding what may be survived (the caller says why).
"""

import logging
from collections import Counter
from collections.abc import Callable

_log = logging.getLogger(__name__)
_counts: Counter[str] = Counter()
_watchers: list[Callable[[str], None]] = []


def swallow(component: str, error: BaseException, consequence: str, *, told: bool = False) -> None:
    """Log the error with what follows from it, and count it.

    Args:
        component: What survived, such as ``release_channel``.
        error: What was caught.
        consequence: What a person should know, such as "serving learns of it seconds later".
        told: It was logged already, or goes on from before: it is counted without a warning.
    """
    _counts[component] += 1
    for watcher in _watchers:
        watcher(component)
    level = logging.DEBUG if told else logging.WARNING
    _log.log(level, "%s: %s: %s", component, consequence, error, exc_info=error)


def watch(watcher: Callable[[str], None]) -> None:
    """Call it with the component at every error that is survived from now on."""
    _watchers.append(watcher)


def counts() -> dict[str, int]:
    """How many errors each component of this process survived."""
    return dict(_counts)
