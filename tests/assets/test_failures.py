"""What does not answer is asked again and said so; what is wrong is told and not tried again."""

import logging
from types import SimpleNamespace

import dagster as dg
import msgspec
import pytest
import redis

from rul_assets import failures
from rul_core.errors import FleetError, Unavailable
from rul_store import champions


@pytest.fixture(autouse=True)
def _no_waiting(monkeypatch):
    monkeypatch.setattr(failures, "FIRST_WAIT_SECONDS", 0.0)


def run_of(compute) -> tuple[dg.ExecuteInProcessResult, list[str]]:
    """Run an asset made of the function; give its run and what happened to its step."""
    asset = dg.asset(name="made", output_required=False)(failures.explained(compute))
    with dg.DagsterInstance.ephemeral() as instance:
        result = dg.materialize([asset], instance=instance, raise_on_error=False)
    return result, [event.event_type_value for event in result.all_events]


def error_of(result: dg.ExecuteInProcessResult) -> str:
    (event,) = (event for event in result.all_events if event.is_step_failure)
    return str(event.step_failure_data.error)


def test_what_does_not_answer_at_first_is_asked_again():
    tries = []

    def compute(context: dg.AssetExecutionContext) -> None:
        tries.append(context.retry_number)
        if len(tries) < 3:
            raise Unavailable("PostgreSQL at localhost:5432/rul: no answer")

    result, events = run_of(compute)
    assert result.success
    assert tries == [0, 1, 2]
    assert events.count("STEP_UP_FOR_RETRY") == 2


def test_what_never_answers_is_given_up_and_the_error_says_so():
    tries = []

    def compute(context: dg.AssetExecutionContext) -> None:
        tries.append(context.retry_number)
        raise Unavailable("PostgreSQL at localhost:5432/rul: no answer")

    result, _ = run_of(compute)
    assert not result.success
    assert len(tries) == 1 + failures.RETRIES
    assert "no answer (given up after 6 tries)" in error_of(result)


@pytest.mark.parametrize(("tried", "seconds"), [(0, 2.0), (1, 4.0), (4, 32.0)])
def test_a_wait_doubles_at_every_try_and_the_log_says_so(monkeypatch, caplog, tried, seconds):
    monkeypatch.setattr(failures, "FIRST_WAIT_SECONDS", 2.0)

    def compute(context: object) -> None:
        raise Unavailable("no answer")

    context = SimpleNamespace(retry_number=tried, log=logging.getLogger("run"))
    with pytest.raises(dg.RetryRequested) as raised:
        failures.explained(compute)(context)
    assert raised.value.seconds_to_wait == seconds
    assert f"no answer; try {tried + 2} of 6 in {seconds:.0f} s" in caplog.text


def test_an_error_that_a_retry_cannot_cure_is_told_in_its_own_words():
    def compute(context: dg.AssetExecutionContext) -> None:
        raise FleetError("fleets/pumps.toml is not there; write one with `rul fleet init`")

    result, events = run_of(compute)
    assert "STEP_UP_FOR_RETRY" not in events
    assert "write one with `rul fleet init`" in error_of(result)


def test_a_bug_fails_as_bugs_do():
    def compute(context: dg.AssetExecutionContext) -> None:
        raise ZeroDivisionError

    result, events = run_of(compute)
    assert "STEP_UP_FOR_RETRY" not in events
    assert "ZeroDivisionError" in error_of(result)


def test_an_asset_that_yields_is_asked_again_too():
    tries = []

    def compute(context: dg.AssetExecutionContext):
        tries.append(context.retry_number)
        if len(tries) < 2:
            raise Unavailable("no answer")
        yield dg.MaterializeResult()

    result, _ = run_of(compute)
    assert result.success
    assert len(tries) == 2


def test_a_database_that_is_down_is_retried_and_named(house, monkeypatch):
    monkeypatch.setattr(failures, "RETRIES", 1)
    # Undone before the house is: afterwards it would bring the house's own URL back, for good.
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("RUL_DATABASE_URL", "postgresql://nobody@/rul?host=/nowhere")
        result = house.make("raw_readings", fails=True)
    events = [event.event_type_value for event in result.all_events]
    assert events.count("STEP_UP_FOR_RETRY") == 1
    assert "PostgreSQL at /nowhere:5432/rul" in error_of(result)
    assert "RUL_DATABASE_URL" in error_of(result)


def test_redis_that_is_down_does_not_hold_up_a_release(lived_in, monkeypatch):
    monkeypatch.setenv("RUL_REDIS_URL", "unix:///nowhere/redis.sock")
    lived_in.run("retrain")
    champion = champions.current(lived_in.engine, "pumps")
    assert champion is not None
    assert champion.generation == 2


def test_a_release_is_told_on_the_channel(lived_in, redis_url, monkeypatch):
    monkeypatch.setenv("RUL_REDIS_URL", redis_url)
    with redis.Redis.from_url(redis_url) as client, client.pubsub() as heard:
        heard.subscribe(champions.CHANNEL)
        assert heard.get_message(timeout=5)
        lived_in.run("retrain")
        told = heard.get_message(timeout=5)
    assert told is not None
    assert msgspec.json.decode(told["data"])["generation"] == 2
