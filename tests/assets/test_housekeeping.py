"""Old history is forgotten, and what assets and checks still stand on is kept."""

from collections.abc import Generator

import dagster as dg
import pytest

from rul_assets.defs.housekeeping import KEEP_DAYS, every_night, housekeeping

FLEETS = dg.DynamicPartitionsDefinition(name="fleet")
SPEC = dg.AssetCheckSpec("fits", asset="table", partitions_def=FLEETS)


@dg.asset(partitions_def=FLEETS, check_specs=[SPEC])
def table() -> dg.MaterializeResult:
    return dg.MaterializeResult(check_results=[dg.AssetCheckResult(passed=True)])


@dg.op
def nothing() -> None:
    pass


@dg.job
def idle() -> None:
    nothing()


@pytest.fixture
def instance() -> Generator[dg.DagsterInstance]:
    with dg.DagsterInstance.ephemeral() as made:
        made.add_dynamic_partitions("fleet", ["pumps", "fans"])
        yield made


def make(instance: dg.DagsterInstance, fleet: str) -> str:
    return dg.materialize([table], instance=instance, partition_key=fleet).run_id


def clean(instance: dg.DagsterInstance, days: int) -> set[str]:
    """Clean; give the runs that are left, without the cleaning itself."""
    config = {"ops": {"forget_old_runs": {"config": {"days": days}}}}
    result = housekeeping.execute_in_process(instance=instance, run_config=config)
    assert result.success
    return {run.run_id for run in instance.get_runs()} - {result.run_id}


def test_runs_and_events_that_are_old_are_forgotten(instance):
    old = idle.execute_in_process(instance=instance).run_id
    assert clean(instance, 0) == set()
    assert instance.all_logs(old) == []


def test_the_last_run_of_each_partition_is_kept_however_old(instance):
    make(instance, "pumps")
    newest = {make(instance, "pumps"), make(instance, "fans")}
    assert clean(instance, 0) == newest
    for fleet in ("pumps", "fans"):
        assert instance.get_latest_storage_id_by_partition(
            dg.AssetKey("table"), dg.DagsterEventType.ASSET_MATERIALIZATION, {fleet}
        )


def test_a_run_that_last_judged_a_check_is_kept(instance):
    @dg.asset
    def plain() -> None:
        pass

    @dg.asset_check(asset=plain)
    def holds() -> dg.AssetCheckResult:
        return dg.AssetCheckResult(passed=False)

    job = dg.define_asset_job("judge", selection=dg.AssetSelection.checks(holds))
    defs = dg.Definitions(assets=[plain], asset_checks=[holds], jobs=[job])
    made = dg.materialize([plain], instance=instance).run_id
    judge = defs.resolve_job_def("judge")
    judge.execute_in_process(instance=instance)
    judged = judge.execute_in_process(instance=instance).run_id
    assert clean(instance, 0) == {made, judged}


def test_what_is_young_or_under_way_is_kept(instance):
    young = idle.execute_in_process(instance=instance).run_id
    assert young in clean(instance, KEEP_DAYS)
    waiting = instance.create_run_for_job(idle).run_id
    assert waiting in clean(instance, 0)


def test_it_is_done_every_night_by_itself():
    assert every_night.job_name == "housekeeping"
    assert every_night.default_status is dg.DefaultScheduleStatus.RUNNING
    assert KEEP_DAYS == 30
