"""What Prometheus is told of Dagster, read from a real instance."""

import argparse
import socket
from collections.abc import Generator
from datetime import UTC, datetime, timedelta

import dagster as dg
import pytest
from dagster._core.remote_origin import (
    RegisteredCodeLocationOrigin,
    RemoteJobOrigin,
    RemoteRepositoryOrigin,
)
from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.metrics_core import Metric
from sqlalchemy.engine import make_url

from rul_assets.exporter import DURATION_BOUNDS, Durations, Exporter, State, _door

FLEETS = dg.DynamicPartitionsDefinition(name="fleet")
SPEC = dg.AssetCheckSpec("fits", asset="table", partitions_def=FLEETS)
PASSES = {"pumps": True, "fans": False}


@dg.asset(partitions_def=FLEETS, check_specs=[SPEC])
def table(context: dg.AssetExecutionContext) -> dg.MaterializeResult:
    passed = PASSES[context.partition_key]
    return dg.MaterializeResult(check_results=[dg.AssetCheckResult(passed=passed)])


@dg.op
def fall() -> None:
    raise dg.Failure("on purpose")


@dg.job
def falling() -> None:
    fall()


@dg.job(name="retrain")
def retrain() -> None:
    fall()


@pytest.fixture
def instance(database_url: str) -> Generator[dg.DagsterInstance]:
    url = make_url(database_url).set(drivername="postgresql+psycopg2").render_as_string(False)
    storage = {"storage": {"postgres": {"postgres_url": url}}}
    with dg.instance_for_test(overrides=storage) as made:
        made.add_dynamic_partitions("fleet", [*PASSES])
        yield made


def samples(metrics: list[Metric]) -> dict[tuple[str, ...], float]:
    """Each sample's value, by its name and its labels' values."""
    return {
        (sample.name, *sample.labels.values()): sample.value
        for metric in metrics
        for sample in metric.samples
    }


def now() -> datetime:
    return datetime.now(UTC)


def test_runs_are_counted_by_job_and_status(instance):
    dg.materialize([table], instance=instance, partition_key="pumps")
    falling.execute_in_process(instance=instance, raise_on_error=False)
    found = samples(State(instance).read(now()))
    assert found["rul_dagster_runs", "__ephemeral_asset_job__", "SUCCESS"] == 1
    assert found["rul_dagster_runs", "falling", "FAILURE"] == 1
    assert found["rul_dagster_run_queue_length",] == 0
    assert found["rul_dagster_run_queue_oldest_seconds",] == 0


def test_when_a_job_last_ended_is_told_by_its_end(instance):
    falling.execute_in_process(instance=instance, raise_on_error=False)
    between = now().timestamp()
    falling.execute_in_process(instance=instance, raise_on_error=False)
    found = samples(State(instance).read(now()))
    name = "rul_dagster_run_ended_timestamp_seconds"
    assert between <= found[name, "falling", "FAILURE"] <= now().timestamp()
    assert (name, "falling", "SUCCESS") not in found


def test_the_queue_and_the_oldest_run_are_told_with_their_age(instance):
    location = RegisteredCodeLocationOrigin("rul")  # ty: ignore[abstract-class-instantiation]
    repository = RemoteRepositoryOrigin(location, "repository")
    instance.create_run_for_job(
        falling,
        status=dg.DagsterRunStatus.QUEUED,
        remote_job_origin=RemoteJobOrigin(repository, falling.name),
    )
    instance.create_run_for_job(falling, status=dg.DagsterRunStatus.STARTED)
    found = samples(State(instance).read(now() + timedelta(seconds=100)))
    assert found["rul_dagster_run_queue_length",] == 1
    assert found["rul_dagster_run_queue_oldest_seconds",] >= 100
    assert found["rul_dagster_active_run_oldest_seconds", "falling"] >= 100


def test_durations_are_of_runs_that_ended_since_and_count_once(instance):
    falling.execute_in_process(instance=instance, raise_on_error=False)
    state = State(instance)
    name = ("rul_dagster_run_duration_seconds_count", "falling", "FAILURE")
    assert name not in samples(state.read(now()))
    falling.execute_in_process(instance=instance, raise_on_error=False)
    assert samples(state.read(now()))[name] == 1
    assert samples(state.read(now()))[name] == 1


def test_a_duration_counts_in_every_bucket_that_it_fits_in():
    durations = Durations()
    for seconds in (5.0, 5.1, 1e9):
        durations.add(seconds)
    buckets = dict(durations.buckets())
    assert buckets["5"] == 1
    assert buckets["15"] == 2
    assert buckets[f"{DURATION_BOUNDS[-1]:g}"] == 2
    assert buckets["+Inf"] == 3


def test_the_last_success_of_an_asset_follows_each_partition(instance):
    state = State(instance)
    name = "rul_dagster_asset_last_success_timestamp_seconds"
    assert not [key for key in samples(state.read(now())) if key[0] == name]
    before = now().timestamp()
    dg.materialize([table], instance=instance, partition_key="pumps")
    first = samples(state.read(now()))
    assert first[name, "table", "pumps"] >= before
    assert (name, "table", "fans") not in first
    dg.materialize([table], instance=instance, partition_key="fans")
    dg.materialize([table], instance=instance, partition_key="pumps")
    second = samples(state.read(now()))
    assert second[name, "table", "pumps"] > second[name, "table", "fans"]
    assert second[name, "table", "fans"] > first[name, "table", "pumps"]


def test_checks_are_told_as_they_were_judged_last(instance, monkeypatch):
    state = State(instance)
    for fleet in PASSES:
        dg.materialize([table], instance=instance, partition_key=fleet)
    name = "rul_dagster_asset_check_failed"
    found = samples(state.read(now()))
    assert found[name, "table", "fits", "pumps", "ERROR"] == 0
    assert found[name, "table", "fits", "fans", "ERROR"] == 1
    monkeypatch.setitem(PASSES, "fans", True)
    dg.materialize([table], instance=instance, partition_key="fans")
    assert samples(state.read(now()))[name, "table", "fits", "fans", "ERROR"] == 0


def test_trainings_are_counted_by_why_and_with_what_end(instance):
    state = State(instance)
    for tags in ({"rul/reason": "drift"}, {"rul/reason": "drift"}, {}):
        retrain.execute_in_process(instance=instance, tags=tags, raise_on_error=False)
    name = "rul_retrain_runs_total"
    found = samples(state.read(now()))
    assert found[name, "drift", "failure"] == 2
    assert found[name, "person", "failure"] == 1
    for record in instance.get_run_records():  # as housekeeping does after a month
        instance.delete_run(record.dagster_run.run_id)
    assert samples(state.read(now()))[name, "drift", "failure"] == 2


def test_leaks_that_the_gate_found_are_counted_by_test(instance):
    severe, mild = dg.AssetCheckSeverity.ERROR, dg.AssetCheckSeverity.WARN
    verdicts = [(False, severe), (True, severe), (False, mild), (False, severe)]
    state = State(instance)
    for passed, severity in verdicts:
        instance.report_runless_asset_event(
            dg.AssetCheckEvaluation(
                asset_key=dg.AssetKey("rul_model"),
                check_name="leakage_label",
                passed=passed,
                severity=severity,
                metadata={},
            )
        )
    assert samples(state.read(now()))["rul_leakage_gate_failures_total", "label"] == 2
    assert samples(state.read(now()))["rul_leakage_gate_failures_total", "label"] == 2


def test_the_drift_of_a_channel_is_that_of_the_last_window_that_could_tell(instance):
    windows = [{"p": 0.5, "t": 0.0}, {"p": 0.1, "t": 0.2}, {}]
    spec = dg.AssetCheckSpec(
        "readings_resemble_training", asset="fleet_prognoses", partitions_def=FLEETS
    )

    @dg.asset(partitions_def=FLEETS, check_specs=[spec])
    def fleet_prognoses() -> dg.MaterializeResult:
        metadata = {"excess_psi": windows.pop(0)}
        return dg.MaterializeResult(
            check_results=[dg.AssetCheckResult(passed=True, metadata=metadata)]
        )

    state = State(instance)
    while windows:
        dg.materialize([fleet_prognoses], instance=instance, partition_key="pumps")
    found = samples(state.read(now()))
    assert found["rul_feature_drift_score", "pumps", "p"] == 0.1
    assert found["rul_feature_drift_score", "pumps", "t"] == 0.2


def test_what_cannot_be_read_is_counted_and_old_figures_are_not_told_for_ever(monkeypatch, capsys):
    answers: list[list[Metric] | Exception] = [[_one()], OSError("no database")]

    def read(_: datetime) -> list[Metric]:
        answer = answers.pop(0)
        if isinstance(answer, Exception):
            raise answer
        return answer

    exporter = Exporter(read)
    registry = CollectorRegistry()
    registry.register(exporter)
    assert b"rul_dagster_up 0.0" in generate_latest(registry)
    exporter.look()
    exporter.look()
    told = generate_latest(registry)
    assert b"rul_dagster_up 1.0" in told
    assert b"rul_dagster_read_failures 1.0" in told
    assert b"\nmine 7.0" in told
    assert "no database" in capsys.readouterr().err
    monkeypatch.setattr("rul_assets.exporter.FRESH_SECONDS", -1.0)
    stale = generate_latest(registry)
    assert b"rul_dagster_up 0.0" in stale
    assert b"mine" not in stale


def _one() -> Metric:
    from prometheus_client.core import GaugeMetricFamily

    family = GaugeMetricFamily("mine", "A metric.")
    family.add_metric([], 7)
    return family


def test_services_that_have_no_metrics_are_asked_whether_they_take_connections():
    with socket.create_server(("127.0.0.1", 0)) as listening:
        port = listening.getsockname()[1]
        exporter = Exporter(lambda _: [], {"pages": ("127.0.0.1", port), "code": ("127.0.0.1", 1)})
        exporter.look()
    (doors,) = [one for one in exporter.collect() if one.name == "rul_dagster_service_up"]
    found = {sample.labels["service"]: sample.value for sample in doors.samples}
    assert found == {"pages": 1, "code": 0}


@pytest.mark.parametrize("told", ["pages", "pages=host", "=host:1", "pages=host:x"])
def test_a_door_that_is_none_is_refused(told: str):
    with pytest.raises(argparse.ArgumentTypeError, match="is no NAME=HOST:PORT"):
        _door(told)
