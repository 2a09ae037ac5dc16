"""Work that is done every so often while the service runs, whatever befalls it once.

What belongs here: the loop. What does not: the work (``rul_store``), which several instances may do
at once.
"""

import asyncio
from collections.abc import Callable

import sqlalchemy as sa

from rul_serving.database import Database
from rul_store.swallowed import swallow


async def keep_doing(
    work: Callable[[sa.Engine], object], database: Database, seconds: float, *, called: str
) -> None:
    """Do the work now and then until cancelled; errors that repeat are counted, and told once.

    Args:
        work: Of ``rul_store``.
        database: That it is done in.
        seconds: From the end of one time to the next.
        called: What it is, for logs and metrics.
    """
    failing = False
    while True:
        try:
            await database.ask(work)
        except Exception as error:  # it is done the next time
            swallow(called, error, "it is tried again soon", told=failing)
            failing = True
        else:
            failing = False
        await asyncio.sleep(seconds)
