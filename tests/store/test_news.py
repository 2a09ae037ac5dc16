"""What is new of a fleet is read from any moment on, without a gap and nothing twice."""

import json

import msgspec
import pytest
import redis
import sqlalchemy as sa
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from rul_core.errors import StoreError
from rul_store import advisory_rows, ledger, news
from rul_store.advisory_rows import AdvisoryEvent
from rul_store.cache import connect_redis
from rul_store.database import begin
from rul_store.ledger import Recorded
from rul_store.news import Cursor, News, NewsKind, Page, Place
from rul_store.swallowed import counts
from tests.store.test_advisories import PUMPS, live

FLEET = PUMPS.name
START = Cursor()


@pytest.fixture
def lived(engine: sa.Engine) -> sa.Engine:
    """Two units that fall ill, each with an advisory, and one that is well."""
    live(engine, "a", 20.0, 4.0, 3.0, 1.0)
    live(engine, "well", 90.0, 91.0)
    live(engine, "b", 4.0, 3.0, 50.0, 51.0, 52.0)
    return engine


def everything(engine: sa.Engine) -> Page:
    return news.since(engine, FLEET, START, limit=1_000)


def forget(engine: sa.Engine, table: str, after: int) -> None:
    """As a database is that was restored from before."""
    with begin(engine) as connection:
        connection.execute(sa.text(f"ALTER TABLE {table} DISABLE TRIGGER USER"))
        query = f"DELETE FROM {table} WHERE position > :after"  # noqa: S608 - constants
        connection.execute(sa.text(query), {"after": after})
        connection.execute(sa.text(f"ALTER TABLE {table} ENABLE TRIGGER USER"))


def test_it_is_both_logs_each_in_its_order_as_others_tell_them(lived):
    page = everything(lived)
    assert page.is_last
    assert page.cursor == news.head(lived, FLEET)
    said = [one for one in page.news if one.kind is NewsKind.PROGNOSIS]
    assert tuple(msgspec.json.decode(one.content, type=Recorded) for one in said) == ledger.since(
        lived, FLEET, 0
    )
    told = [
        msgspec.json.decode(one.content, type=AdvisoryEvent)
        for one in page.news
        if one.kind is NewsKind.ADVISORY
    ]
    with begin(lived) as connection:
        query = sa.literal_column("''")
        kept = [event for event, _ in advisory_rows.events_since(connection, FLEET, 0, query, 99)]
    assert told == kept
    assert len(told) > 2
    assert all(b"\n" not in one.content for one in page.news)


def test_an_advisory_follows_the_prognosis_that_opened_it(lived):
    found = everything(lived).news
    opened = [i for i, one in enumerate(found) if b'"kind":"opened"' in one.content]
    assert len(opened) == 2
    for place in opened:
        event = json.loads(found[place].content)
        assert found[place - 1].kind is NewsKind.PROGNOSIS
        cause = json.loads(found[place - 1].content)["prognosis"]
        assert (cause["unit"], cause["cycle"]) == (event["unit"], event["cycle"])


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=60)
@given(data=st.data())
def test_from_any_cursor_in_pages_of_any_size_nothing_is_missed_or_doubled(lived, data):
    all_news = everything(lived).news
    read = data.draw(st.integers(0, len(all_news)), label="read before")
    unit = data.draw(st.sampled_from([None, "a", "b", "well", "nobody"]), label="unit")
    kind = data.draw(st.sampled_from([None, *NewsKind]), label="kind")
    cursor = START
    for one in all_news[:read]:
        cursor = cursor.past(one)
    found: list[News] = []
    for _ in range(len(all_news) + 2):
        limit = data.draw(st.integers(1, 5), label="limit")
        cursor = Cursor.read(str(cursor))
        page = news.since(lived, FLEET, cursor, limit=limit, unit=unit, kind=kind)
        assert page.is_known
        assert len(page.news) <= limit
        found += page.news
        cursor = page.cursor
        if page.is_last:
            break
    assert found == [
        one for one in all_news[read:] if unit in (None, one.unit) and kind in (None, one.kind)
    ]
    assert cursor == news.head(lived, FLEET)


def test_a_cursor_knows_what_it_has_passed(lived):
    first, second, *_ = everything(lived).news
    cursor = START.past(first)
    assert cursor.has_passed(first)
    assert not cursor.has_passed(second)
    assert START.is_within(cursor)
    assert not cursor.is_within(START)


def test_another_fleet_has_news_of_its_own(lived):
    assert everything(lived).news
    assert news.since(lived, "fans", START, limit=9) == Page(
        is_known=True, news=(), cursor=START, is_last=True
    )


@pytest.mark.parametrize("log", ["ledger", "advisory_events"])
def test_a_cursor_beyond_a_restored_database_is_unknown(lived, log):
    beyond = news.head(lived, FLEET)
    forget(lived, log, 2)
    page = news.since(lived, FLEET, beyond, limit=9)
    assert (page.is_known, page.news, page.is_last) == (False, (), True)
    assert page.cursor == news.head(lived, FLEET)
    assert page.cursor.is_within(beyond)


def test_a_cursor_of_an_entry_that_was_written_otherwise_since_is_unknown(lived):
    before = news.head(lived, FLEET)
    forget(lived, "ledger", before.prognosis.position - 1)
    live(lived, "well", 70.0, first=9)
    again = news.head(lived, FLEET)
    assert again.prognosis.position == before.prognosis.position
    assert not news.since(lived, FLEET, before, limit=9).is_known
    assert news.since(lived, FLEET, again, limit=9).is_known


def test_an_advisory_event_that_was_written_otherwise_since_is_unknown(lived):
    before = news.head(lived, FLEET)
    with begin(lived) as connection:
        connection.execute(sa.text("ALTER TABLE advisory_events DISABLE TRIGGER USER"))
        connection.execute(
            sa.text("UPDATE advisory_events SET at = at + interval '1 s' WHERE position = :last"),
            {"last": before.advisory.position},
        )
    assert not news.since(lived, FLEET, before, limit=9).is_known


@pytest.mark.parametrize(
    "text",
    ["", "1", "00", "-1", "1-1", "1.ab-2.cd", f"{10**18}.00000000-0.00000000", "0 ", "1.G0000000-"],
)
def test_a_text_that_is_no_cursor_is_refused_by_name(text):
    with pytest.raises(StoreError, match="is no id that this service gave"):
        Cursor.read(text)


def test_a_cursor_is_read_as_it_was_written():
    cursor = Cursor(prognosis=Place(10**18 - 1, "0a1b2c3d"), advisory=Place(7, "ffffffff"))
    assert Cursor.read(str(cursor)) == cursor
    assert Cursor.read("0") == START


def test_who_listens_on_the_channel_is_told_the_fleet(redis_url):
    with connect_redis(redis_url) as client, client.pubsub() as listener:
        listener.subscribe(news.CHANNEL)
        assert listener.get_message(timeout=5)["type"] == "subscribe"
        news.announce(client, "pumps")
        assert json.loads(listener.get_message(timeout=5)["data"]) == ["pumps"]


def test_without_redis_it_is_survived_and_counted():
    news.announce(None, "pumps")
    before = counts().get("news_channel", 0)
    with redis.Redis.from_url("redis://127.0.0.1:1") as client:
        news.announce(client, "pumps")
    assert counts()["news_channel"] == before + 1
