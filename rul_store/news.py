"""What is new of a fleet: prognoses and what happens to advisories, from any moment on.

What belongs here: reading both logs in order, the cursor of a place in them, and the Redis channel
that says that there is something to read. What does not: writing them (``ledger``,
``advisories``), who listens (``rul_serving``).

Positions in both logs are in the order of the commits, without gaps. So a cursor that names one in
each is a place in time: whoever reads on from it misses nothing and reads nothing twice. It bears a
mark of each entry that it names; in a database that was restored from before, or written otherwise
since, there is no such entry, and the reader is told.
"""

import heapq
import re
from datetime import datetime
from enum import StrEnum
from typing import Self

import msgspec
import redis
import sqlalchemy as sa
from msgspec.structs import replace

from rul_core.errors import StoreError
from rul_store import advisory_rows
from rul_store.database import begin
from rul_store.swallowed import swallow

CHANNEL = "rul:news"
"""The Redis channel on which fleets are named of which there is news, as JSON: a message only means
"look"."""
MARK_BYTES = 4
_START_MARK = "00" * MARK_BYTES
_CURSOR = re.compile(r"(\d{1,18})\.([0-9a-f]{8})-(\d{1,18})\.([0-9a-f]{8})")


class NewsKind(StrEnum):
    """Which of a fleet's logs it comes from."""

    PROGNOSIS = "prognosis"
    """Something is said of a unit: an entry of the ledger."""
    ADVISORY = "advisory"
    """Something happened to an advisory."""


class Place(msgspec.Struct, frozen=True):
    """An entry of a log: the last that was read."""

    position: int = 0
    """0 is before the first."""
    mark: str = _START_MARK
    """Tells the entry from another that came to the same position; hexadecimal."""


class Cursor(msgspec.Struct, frozen=True, kw_only=True):
    """A moment of a fleet: a place in each of its logs, named by its kind."""

    prognosis: Place = Place()
    advisory: Place = Place()

    @classmethod
    def read(cls, text: str) -> Self:
        """The cursor that ``str`` gave as this; ``0`` is the beginning.

        Raises:
            StoreError: It gave none like that.
        """
        if text == "0":
            return cls()
        found = _CURSOR.fullmatch(text)
        if found is None:
            raise StoreError(f"{text!r} is no id that this service gave")
        return cls(
            prognosis=Place(int(found[1]), found[2]), advisory=Place(int(found[3]), found[4])
        )

    def __str__(self) -> str:
        said, happened = self.prognosis, self.advisory
        return f"{said.position}.{said.mark}-{happened.position}.{happened.mark}"

    def past(self, news: "News") -> Self:
        """The cursor once the news was read."""
        return replace(self, **{news.kind: news.place})

    def has_passed(self, news: "News") -> bool:
        """Whether the news was read before."""
        place: Place = getattr(self, news.kind)
        return news.place.position <= place.position

    def is_within(self, later: "Cursor") -> bool:
        """Whether it is nowhere beyond another."""
        return (
            self.prognosis.position <= later.prognosis.position
            and self.advisory.position <= later.advisory.position
        )


class News(msgspec.Struct, frozen=True, kw_only=True):
    """An entry of one of the logs."""

    kind: NewsKind
    place: Place
    unit: str
    at: datetime
    """When it was written."""
    content: bytes
    """JSON, without a line break: a ``Recorded``, or an ``AdvisoryEvent``."""


class Page(msgspec.Struct, frozen=True, kw_only=True):
    """What is new since a cursor, or a part of it."""

    is_known: bool
    """Whether what the cursor names is there; otherwise there is no news, and ``cursor`` is now."""
    news: tuple[News, ...]
    cursor: Cursor
    """Where it goes on."""
    is_last: bool
    """Whether nothing more was there at the time."""


def announce(client: redis.Redis | None, fleet: str) -> None:
    """Say that there is news; who is not reached finds it by looking, seconds later.

    Args:
        client: None where there is no Redis.
        fleet: Whose; its news must be committed.
    """
    if client is None:
        return
    try:
        client.publish(CHANNEL, msgspec.json.encode([fleet]))
    except redis.RedisError as error:
        swallow("news_channel", error, "streams learn of it by looking")


def head(engine: sa.Engine, fleet: str) -> Cursor:
    """Where the fleet's logs end now.

    Raises:
        Unavailable: PostgreSQL does not answer.
    """
    with begin(engine) as connection:
        return _look(connection, fleet, Cursor())[0]


def since(
    engine: sa.Engine,
    fleet: str,
    after: Cursor,
    *,
    limit: int,
    unit: str | None = None,
    kind: NewsKind | None = None,
) -> Page:
    """What came after a cursor, by the time it was written; each log in its order.

    Args:
        engine: The database.
        fleet: The fleet's name.
        after: What was read before.
        limit: How many at most.
        unit: Only of this one.
        kind: Only of this one; the last page's cursor passes the others by.

    Raises:
        Unavailable: PostgreSQL does not answer.
    """
    wanted = list(NewsKind) if kind is None else [kind]
    with begin(engine) as connection:
        connection.execute(sa.text(_ONE_MOMENT))
        now, is_known = _look(connection, fleet, after)
        if not is_known or now == after:
            return Page(is_known=is_known, news=(), cursor=now, is_last=True)
        logs = [_READ[one](connection, fleet, after, limit, unit) for one in wanted]
    news = tuple(heapq.merge(*logs, key=_time_of))[:limit]
    is_last = sum(map(len, logs)) < limit
    cursor = now
    if not is_last:
        cursor = after
        for one in news:
            cursor = cursor.past(one)
    return Page(is_known=True, news=news, cursor=cursor, is_last=is_last)


def _time_of(news: News) -> datetime:
    return news.at


def _look(connection: sa.Connection, fleet: str, cursor: Cursor) -> tuple[Cursor, bool]:
    """Where the logs end, and whether they have what the cursor names."""
    parameters = {
        "fleet": fleet,
        "said": cursor.prognosis.position,
        "happened": cursor.advisory.position,
    }
    row = connection.execute(sa.text(_LOOK), parameters).one()
    now = Cursor(
        prognosis=Place(row.said, row.said_mark), advisory=Place(row.happened, row.happened_mark)
    )
    named = (row.mark_then_said, row.mark_then_happened)
    return now, named == (cursor.prognosis.mark, cursor.advisory.mark)


def _prognoses(
    connection: sa.Connection, fleet: str, after: Cursor, limit: int, unit: str | None
) -> list[News]:
    query = _SAID.format("" if unit is None else "AND unit = :unit")
    parameters = {"fleet": fleet, "after": after.prognosis.position, "limit": limit, "unit": unit}
    return [
        News(
            kind=NewsKind.PROGNOSIS,
            place=Place(row.position, row.mark),
            unit=row.unit,
            at=row.recorded_at,
            content=msgspec.json.encode(
                {  # ``ledger.Recorded``, without reading the prognosis and writing it again
                    "ledger_id": row.ledger_id,
                    "position": row.position,
                    "recorded_at": row.recorded_at,
                    "prognosis": msgspec.Raw(row.prognosis),
                    "prev_hash": row.prev_hash,
                    "hash": row.hash,
                }
            ),
        )
        for row in connection.execute(sa.text(query), parameters)
    ]


def _advisories(
    connection: sa.Connection, fleet: str, after: Cursor, limit: int, unit: str | None
) -> list[News]:
    found = advisory_rows.events_since(
        connection, fleet, after.advisory.position, sa.literal_column(_HAPPENED_MARK), limit, unit
    )
    return [
        News(
            kind=NewsKind.ADVISORY,
            place=Place(event.position, mark),
            unit=event.unit,
            at=event.at,
            content=msgspec.json.encode(event),
        )
        for event, mark in found
    ]


_READ = {NewsKind.PROGNOSIS: _prognoses, NewsKind.ADVISORY: _advisories}
# Both logs as they are at one moment: a prognosis and the advisory that it opens come together.
_ONE_MOMENT = "SET TRANSACTION ISOLATION LEVEL REPEATABLE READ, READ ONLY"
_SAID_MARK = f"encode(substr(hash, 1, {MARK_BYTES}), 'hex')"
_HAPPENED_MARK = f"""encode(substr(
    sha256(convert_to(concat_ws(' ', advisory_id, version, kind, at), 'UTF8')), 1, {MARK_BYTES}
), 'hex')"""


def _newest(what: str, log: str, otherwise: str) -> str:
    query = f"SELECT {what} FROM {log} WHERE fleet = :fleet ORDER BY position DESC LIMIT 1"  # noqa: S608
    return f"coalesce(({query}), {otherwise})"


def _mark_at(position: str, mark: str, log: str) -> str:
    query = f"SELECT {mark} FROM {log} WHERE fleet = :fleet AND position = :{position}"  # noqa: S608
    return f"CASE WHEN :{position} = 0 THEN '{_START_MARK}' ELSE ({query}) END"


_LOOK = f"""
    SELECT
        {_newest("position", "ledger", "0")} AS said,
        {_newest(_SAID_MARK, "ledger", f"'{_START_MARK}'")} AS said_mark,
        {_newest("position", "advisory_events", "0")} AS happened,
        {_newest(_HAPPENED_MARK, "advisory_events", f"'{_START_MARK}'")} AS happened_mark,
        {_mark_at("said", _SAID_MARK, "ledger")} AS mark_then_said,
        {_mark_at("happened", _HAPPENED_MARK, "advisory_events")} AS mark_then_happened
"""
_SAID = f"""
    SELECT position, {_SAID_MARK} AS mark, unit, recorded_at, ledger_id,
        prognosis::text AS prognosis, encode(prev_hash, 'hex') AS prev_hash,
        encode(hash, 'hex') AS hash
    FROM ledger WHERE fleet = :fleet AND position > :after {{}}
    ORDER BY position LIMIT :limit
"""  # noqa: S608 - the parts are constants
