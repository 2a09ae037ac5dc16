"""Questions to PostgreSQL that never hang an answer.

What belongs here: threads, timeouts and the one error when PostgreSQL does not answer. What does
not: the questions (``rul_store``).
"""

from collections.abc import Callable
from typing import Any, Concatenate, ParamSpec, TypeVar

import sqlalchemy as sa
from psycopg.errors import UndefinedTable
from sqlalchemy import event
from sqlalchemy.engine import make_url
from sqlalchemy.exc import ProgrammingError

from rul_core.errors import Unavailable
from rul_serving.threads import Lane
from rul_store.database import begin, connect, place_of
from rul_store.tables import current_prognoses

QUESTIONS_AT_ONCE = 8
QUIET_WORK_AT_ONCE = 2
CLOSE_SECONDS = 1.0
VANISHED_SERVER = {
    "tcp_user_timeout": "5000",
    "keepalives_idle": "10",
    "keepalives_interval": "5",
    "keepalives_count": "3",
}
"""Ends the wait for a host that is gone without a word, which no query timeout ends."""

P = ParamSpec("P")
T = TypeVar("T")


class Database:
    """PostgreSQL, asked from threads.

    Args:
        url: ``postgresql://…``.
        timeout_seconds: After which a question is given up, whatever became of it.
    """

    def __init__(self, url: str, timeout_seconds: float) -> None:
        patient = make_url(url).update_query_dict(VANISHED_SERVER)
        self._engine = connect(
            patient.render_as_string(hide_password=False),
            pool_size=QUESTIONS_AT_ONCE + QUIET_WORK_AT_ONCE,
            max_overflow=0,
        )
        self._place = place_of(self._engine.url)
        self._lane = Lane(
            "postgresql", f"PostgreSQL at {self._place}", QUESTIONS_AT_ONCE, timeout_seconds
        )
        self._quiet_lane = Lane("postgresql_quiet", f"work in {self._place}", QUIET_WORK_AT_ONCE)
        limit = f"SET statement_timeout = {round(timeout_seconds * 1000)}"

        @event.listens_for(self._engine, "connect")
        def _limit(connection: Any, _: object) -> None:
            connection.execute(limit)
            connection.commit()

    async def ask(
        self,
        question: Callable[Concatenate[sa.Engine, P], T],
        *args: P.args,
        **named: P.kwargs,
    ) -> T:
        """What a function of ``rul_store`` says that takes an engine first.

        Raises:
            Unavailable: PostgreSQL does not answer, does so too late, or has no tables yet.
        """
        return await self._run(self._lane, question, *args, **named)

    async def work(
        self,
        step: Callable[Concatenate[sa.Engine, P], T],
        *args: P.args,
        **named: P.kwargs,
    ) -> T:
        """The same for work that nobody waits for, which takes no place from those who wait.

        Raises:
            Unavailable: As of ``ask``; but the step as a whole is never given up, only a query.
        """
        return await self._run(self._quiet_lane, step, *args, **named)

    async def _run(
        self,
        lane: Lane,
        question: Callable[Concatenate[sa.Engine, P], T],
        *args: P.args,
        **named: P.kwargs,
    ) -> T:
        try:
            return await lane.run(question, self._engine, *args, **named)
        except (ProgrammingError, UndefinedTable) as error:
            if not isinstance(getattr(error, "orig", error), UndefinedTable):
                raise
            raise Unavailable(
                f"PostgreSQL at {self._place} has no tables of ours yet; migrate it, or see that "
                "RUL_DATABASE_URL names the right database"
            ) from error

    async def check(self) -> None:
        """See that it answers and has our tables.

        Raises:
            Unavailable: It does not.
        """
        await self.ask(_look)

    async def close(self) -> None:
        """Give the connections back, also those of questions that nobody waits for any more."""
        for lane in (self._quiet_lane, self._lane):
            await lane.close(CLOSE_SECONDS)
        self._engine.dispose()


def _look(engine: sa.Engine) -> None:
    with begin(engine) as connection:
        connection.execute(sa.select(current_prognoses.c.unit).limit(0))
