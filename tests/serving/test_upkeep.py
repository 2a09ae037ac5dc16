"""Work that is done again and again while the service runs."""

import asyncio

import sqlalchemy as sa

from rul_core.errors import Unavailable
from rul_serving import service
from rul_serving.database import Database
from rul_serving.upkeep import keep_doing
from rul_store import advisories, idempotency, swallowed


def test_work_that_fails_is_counted_and_done_the_next_time(platform):
    failures, done = [Unavailable("away"), ZeroDivisionError()], asyncio.Event()

    def work(engine: sa.Engine) -> None:
        if failures:
            raise failures.pop()
        with engine.connect() as connection:
            assert connection.execute(sa.text("SELECT 1")).scalar() == 1
        done.set()

    async def until_done() -> None:
        database = Database(platform.settings.database_url.get_secret_value(), 5.0)
        doing = asyncio.create_task(keep_doing(work, database, 0.01, called="some_work"))
        async with asyncio.timeout(10):
            while not done.is_set():
                await asyncio.sleep(0.01)
        doing.cancel()
        await database.close()

    before = swallowed.counts().get("some_work", 0)
    asyncio.run(until_done())
    assert swallowed.counts()["some_work"] == before + 2


def test_the_service_removes_old_idempotency_records_and_lets_advisories_lapse():
    kept_up = {name: work for name, work, _ in service.UPKEEP}
    assert kept_up["idempotency_removal"] is idempotency.remove_expired
    assert kept_up["advisory_upkeep"] is advisories.tend


def test_the_service_keeps_it_up_while_it_runs(platform, monkeypatch, eventually):
    done: list[sa.Engine] = []
    monkeypatch.setattr(service, "UPKEEP", (("counting", done.append, 0.01),))
    with platform.client():
        eventually(lambda: len(done) > 2)
