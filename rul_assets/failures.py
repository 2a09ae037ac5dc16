"""Which failures are worth another try.

What belongs here: the translation of the platform's errors into Dagster's. What does not: the
errors (``rul_core.errors``), retries of a run whose process died (the instance's ``run_retries``).
Concept: https://docs.dagster.io/guides/build/ops/op-retries
"""

import functools
import inspect
from collections.abc import Callable, Generator
from contextlib import contextmanager
from typing import Any

import dagster as dg

from rul_core.errors import RulError, Unavailable

RETRIES = 5
FIRST_WAIT_SECONDS = 2.0
"""Doubled at every try: 2, 4, 8, 16 and 32 s outlast the restart of a database."""


def explained(compute: Callable[..., Any]) -> Callable[..., Any]:
    """Give the compute function of an asset, a check or an op two ways to fail on purpose.

    A database or cache that does not answer is asked again, a few times, and the log says so. Any
    other error of the platform is permanent: it is told in its own words and never tried again.
    All else is a bug and fails as bugs do.

    Args:
        compute: Its first parameter is Dagster's context.
    """
    if inspect.isgeneratorfunction(compute):

        @functools.wraps(compute)
        def explained_generator(context: Any, *args: Any, **kwargs: Any) -> Generator[Any]:
            with _translated(context):
                yield from compute(context, *args, **kwargs)

        return explained_generator

    @functools.wraps(compute)
    def explained_function(context: Any, *args: Any, **kwargs: Any) -> Any:
        with _translated(context):
            return compute(context, *args, **kwargs)

    return explained_function


@contextmanager
def _translated(
    context: dg.AssetExecutionContext | dg.AssetCheckExecutionContext | dg.OpExecutionContext,
) -> Generator:
    try:
        yield
    except Unavailable as error:
        tried = context.retry_number
        if tried >= RETRIES:
            raise dg.Failure(
                f"{error} (given up after {tried + 1} tries)", allow_retries=False
            ) from error
        wait_seconds = FIRST_WAIT_SECONDS * 2**tried
        context.log.warning(
            "%s; try %d of %d in %.0f s", error, tried + 2, RETRIES + 1, wait_seconds
        )
        raise dg.RetryRequested(max_retries=RETRIES, seconds_to_wait=wait_seconds) from error
    except RulError as error:
        raise dg.Failure(str(error), allow_retries=False) from error
