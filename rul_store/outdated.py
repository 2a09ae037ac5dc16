"""Units in service whose current prognosis is not of the model that is live.

What belongs here: finding and counting them. What does not: prognosing them anew (``rul_serving``,
``rul_assets``).

A unit is such when another version, or none, said the last word of its running life. A life of
which nothing was said yet counts once a reading of it was sent; readings in files alone do not show
here.
"""

import msgspec
import sqlalchemy as sa

from rul_store.database import begin


class Outdated(msgspec.Struct, frozen=True, kw_only=True):
    """A unit in service."""

    unit: str
    life: int
    """The running one."""
    token: int | None
    """Of the transaction that last added a reading to it over HTTP."""
    cycle: float | None
    """At which something was said of it last; none where nothing was."""


def count(engine: sa.Engine, fleet: str, version: str) -> int:
    """How many units are behind the version.

    Raises:
        Unavailable: PostgreSQL does not answer.
    """
    parameters = {"fleet": fleet, "version": version, "unheard": False}
    with begin(engine) as connection:
        return connection.execute(sa.text(_COUNT), parameters).scalar_one()


def some(
    connection: sa.Connection,
    fleet: str,
    version: str,
    *,
    after: str,
    limit: int,
    unheard: bool,
) -> list[Outdated]:
    """The next units that are behind, by name.

    Args:
        connection: An open transaction.
        fleet: The fleet's name.
        version: That they should be prognosed by.
        after: The last unit that was looked at.
        limit: How many at most.
        unheard: Also lives of which nothing was said and nothing was sent; files may tell of them.
    """
    parameters = {
        "fleet": fleet,
        "version": version,
        "after": after,
        "limit": limit,
        "unheard": unheard,
    }
    rows = connection.execute(sa.text(_SOME), parameters)
    return [msgspec.convert(row._asdict(), Outdated) for row in rows]


_BEHIND = """
    FROM lives
    LEFT JOIN current_prognoses AS said
        ON said.fleet = lives.fleet AND said.unit = lives.unit AND said.life = lives.life
    WHERE lives.fleet = :fleet AND lives.outcome = 'running'
        AND said.model_version IS DISTINCT FROM :version
        AND (said.unit IS NOT NULL OR lives.token IS NOT NULL OR :unheard)
        AND NOT EXISTS (
            SELECT FROM lives AS later
            WHERE later.fleet = lives.fleet AND later.unit = lives.unit AND later.life > lives.life
        )
"""
_COUNT = f"SELECT count(*) {_BEHIND}"
_SOME = f"""
    SELECT lives.unit, lives.life, lives.token, said.cycle {_BEHIND}
        AND lives.unit > :after
    ORDER BY lives.unit LIMIT :limit
"""
