"""Work that one process does for all of them, and another takes over when it is gone.

What belongs here: who holds what until when. What does not: the work.

A lease is a row with an end. Whoever finds it ended, or his own, may have it; the clock is
PostgreSQL's, so that those of the processes do not matter.
"""

import sqlalchemy as sa

from rul_store.database import begin


def hold(engine: sa.Engine, name: str, holder: str, seconds: float) -> bool:
    """Take or renew a lease; whether the holder has it now.

    Args:
        engine: The database.
        name: What for.
        holder: Who; the same again renews.
        seconds: From now; renew well before.

    Raises:
        Unavailable: PostgreSQL does not answer.
    """
    parameters = {"name": name, "holder": holder, "seconds": seconds}
    with begin(engine) as connection:
        return connection.execute(sa.text(_HOLD), parameters).first() is not None


def release(engine: sa.Engine, name: str, holder: str) -> None:
    """Give a lease back, if the holder has it."""
    with begin(engine) as connection:
        connection.execute(sa.text(_RELEASE), {"name": name, "holder": holder})


_HOLD = """
    INSERT INTO leases AS held (name, holder, until)
    VALUES (:name, :holder, clock_timestamp() + make_interval(secs => :seconds))
    ON CONFLICT (name) DO UPDATE SET holder = excluded.holder, until = excluded.until
    WHERE held.holder = excluded.holder OR held.until < clock_timestamp()
    RETURNING name
"""
_RELEASE = "DELETE FROM leases WHERE name = :name AND holder = :holder"
