"""Backups as assets, on a real PostgreSQL and Redis: made, looked at, proved, let go."""

import errno
import io
from collections.abc import Generator, Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path

import dagster as dg
import pytest
import redis
import sqlalchemy as sa

from rul_assets import laptop
from rul_assets.backup import assets, definitions, drill, schedules
from rul_backup import fingerprints, golden
from rul_backup.golden import Golden
from rul_backup.keeping import Backups, maker_of
from rul_backup.manifest import Kind
from rul_backup.reading import BackupSettings
from rul_backup.retention import Policy
from rul_backup.runs import Run
from rul_backup.verification import Level
from rul_core.errors import SettingsError, Unavailable
from rul_store import backup_rows
from rul_store.database import begin
from tests.backup.s3 import S3, s3, s3_server

__all__ = ["s3", "s3_server"]

SNAPSHOTS = {
    "postgres_snapshot", "redis_snapshot", "model_snapshot", "base_snapshot", "stack_snapshot",
    "backup_manifest",
}  # fmt: skip
KEPT = ["platform.dump", "redis.rdb", "models.tar"]


class Keeper:
    """Runs the jobs of the code location.

    Args:
        backups: What they work on.
        instance: Dagster's.
    """

    def __init__(self, backups: Backups, instance: dg.DagsterInstance) -> None:
        self.backups, self.instance = backups, instance
        self._definitions = dg.Definitions.merge(definitions.defs(), drill.defs())

    def run(
        self,
        job: str,
        *,
        fails: bool = False,
        only: Sequence[dg.AssetKey] | None = None,
        config: dict | None = None,
    ) -> dg.ExecuteInProcessResult:
        """Run a job, or only some of its assets."""
        result = self._definitions.resolve_job_def(job).execute_in_process(
            instance=self.instance, raise_on_error=not fails, asset_selection=only,
            run_config=config,
        )  # fmt: skip
        assert result.success is not fails
        return result

    def told(self, asset: str) -> dict:
        """What an asset said of itself last."""
        event = self.instance.get_latest_materialization_event(dg.AssetKey(asset))
        assert event is not None
        assert event.asset_materialization is not None
        return {name: value.value for name, value in event.asset_materialization.metadata.items()}


@pytest.fixture
def keeper(
    tmp_path: Path,
    engine: sa.Engine,
    database_url: str,
    redis_url: str,
    monkeypatch: pytest.MonkeyPatch,
) -> Generator[Keeper]:
    root = tmp_path / "data"
    for name, content in (("fleets/pumps.toml", "x"), ("models/pumps/v1/model.cbm", "y")):
        path = root / name
        path.parent.mkdir(parents=True)
        path.write_text(content)
    monkeypatch.setenv("RUL_ROOT", str(root))
    monkeypatch.setenv("RUL_DATABASE_URL", database_url)
    monkeypatch.setenv("RUL_REDIS_URL", redis_url)
    made = Backups(root, BackupSettings(), engine, redis_url)
    made.make_keys("plant")
    with dg.DagsterInstance.ephemeral() as instance:
        yield Keeper(made, instance)


def why(result: dg.ExecuteInProcessResult) -> str:
    (failure,) = [event for event in result.all_events if event.is_step_failure]
    return failure.step_failure_data.error_display_string


def checks(result: dg.ExecuteInProcessResult) -> dict[str, dg.AssetCheckEvaluation]:
    return {one.check_name: one for one in result.get_asset_check_evaluations()}


def test_what_schedules_make_rests_as_the_settings_say(
    keeper: Keeper, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setenv("RUL_BACKUP_SHARE", "0.7")
    began: list[float] = []
    begin = Backups.begin

    def noted(self: Backups, now: datetime, **how: str) -> Run:
        run = begin(self, now, **how)
        began.append(run.pace.share)
        return run

    monkeypatch.setattr(Backups, "begin", noted)
    keeper.run("back_up")
    keeper.backups.make(datetime.now(UTC))  # as people do, who wait for it
    assert began == [0.7, 1.0]


def test_one_run_of_dagster_makes_one_run_of_backups(keeper: Keeper, redis_url: str):
    with redis.Redis.from_url(redis_url) as client:
        client.set("a", 1)
    result = keeper.run("back_up")
    (found,) = keeper.backups.there()
    told = found.sealed.manifest
    assert sorted(kept.name for kept in told.artefacts) == sorted(KEPT)
    assert {kept.run for kept in told.artefacts} == {""}
    made = {event.asset_key.to_user_string() for event in result.get_asset_materialization_events()
            if event.asset_key}  # fmt: skip
    assert made == SNAPSHOTS | {"offsite_copy"}
    assert keeper.told("offsite_copy") == {"brought": "nothing: RUL_BACKUP_OFFSITE is not set"}
    assert keeper.told("backup_manifest")["run"] == told.run
    assert keeper.told("postgres_snapshot")["tables"] > 20
    assert keeper.told("model_snapshot")["files"] == 2
    assert "data:image/png" in keeper.told("backup_manifest")["sizes"]
    assert checks(result)["nothing_has_shrunk"].passed
    keeper.run("back_up")
    assert keeper.told("model_snapshot")["kept_by"] == told.run
    assert len(keeper.backups.there()) == 2


def test_an_hourly_look_finds_an_object_that_was_changed_and_names_it(keeper: Keeper):
    keeper.run("back_up")
    good = checks(keeper.run("look_at_backups"))["every_object_is_what_was_written"]
    assert good.passed
    assert good.metadata["objects"].value == 4
    name = next(iter(keeper.backups.find(None).objects))
    path = Path(str(keeper.backups.store)) / name
    path.write_bytes(path.read_bytes()[:-1] + b"\0")
    bad = checks(keeper.run("look_at_backups"))["every_object_is_what_was_written"]
    assert not bad.passed
    assert bad.metadata["findings"].value == [
        f"{name}: is not what was written: its checksum differs"
    ]


def test_the_drill_proves_the_newest_run_and_says_where_it_differs(
    keeper: Keeper, monkeypatch: pytest.MonkeyPatch
):
    keeper.run("back_up")
    result = keeper.run("prove_backups")
    assert checks(result)["what_is_restored_is_what_was_kept"].passed
    (found,) = keeper.backups.there()
    assert found.proof is not None
    assert found.proof.differences == ()
    told = keeper.told("restore_drill")
    assert told["run"] == found.sealed.manifest.run
    assert (told["prognoses_compared"], told["champions"]) == (0, "none")
    assert told["proven_at"] == found.proof.proven_at.isoformat()
    assert told["recovery_point_seconds"] == found.proof.recovery_point_seconds
    assert told["recovery_point_seconds"] > 0
    assert told["seconds"] == found.proof.seconds > 0
    for step in ("platform.dump restored", "a Redis started from redis.rdb"):
        assert f"| {step} | " in told["steps"]
    true = fingerprints.differences
    monkeypatch.setattr(fingerprints, "differences", lambda *both: [*true(*both), "table x"])
    told = checks(keeper.run("prove_backups"))["what_is_restored_is_what_was_kept"]
    assert not told.passed
    assert told.metadata["differences"].value == ["table x"]


def test_what_champions_say_in_the_drill_is_shown_and_counts(
    keeper: Keeper, monkeypatch: pytest.MonkeyPatch
):
    keeper.run("back_up")
    found = [
        Golden("pumps", "v1", is_sound=True, told="equal", compared=3, looked_at=3),
        Golden(
            "fans", "v2", is_sound=False, told="differs in rul_cycles", compared=4, looked_at=10
        ),
        Golden("mills", "v3", is_sound=True, told="none can be computed again", looked_at=200),
        Golden("new", "v1", is_sound=True, told="it has said nothing yet"),
    ]
    monkeypatch.setattr(golden, "check", lambda *_: found)
    told = checks(keeper.run("prove_backups"))
    doubtful = told["what_champions_said_could_be_computed_again"]
    assert not doubtful.passed
    assert doubtful.severity is dg.AssetCheckSeverity.WARN
    assert doubtful.metadata["fleets"].value == ["mills"]
    told = told["what_is_restored_is_what_was_kept"]
    assert not told.passed
    assert told.metadata["differences"].value == [
        "the champion of fleet fans, v2, does not answer as it did: differs in rul_cycles"
    ]
    assert keeper.told("restore_drill")["prognoses_compared"] == 7
    assert "| fans | v2 |" in keeper.told("restore_drill")["champions"]


def test_what_is_brought_beyond_the_machine_is_looked_at_and_proved_from_there_alone(
    keeper: Keeper, s3: S3, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setenv("RUL_BACKUP_OFFSITE", "s3://backups/assets")
    monkeypatch.setenv("RUL_BACKUP_OFFSITE_OPTIONS", s3.options())
    keeper.run("back_up")
    run = keeper.backups.find(None).manifest.run
    told = keeper.told("offsite_copy")
    assert (told["runs"], told["newest"]) == (1, run)
    looked = checks(keeper.run("look_at_backups"))["every_object_is_there"]
    assert looked.passed
    assert looked.metadata["objects"].value == 4
    here = Path(str(keeper.backups.store))
    here.rename(here.with_name("lost"))
    result = keeper.run("prove_backups")
    assert checks(result)["what_is_restored_is_what_was_kept"].passed
    assert keeper.told("restore_drill")["store"] == "off-site"
    (path,) = (s3.files / "assets" / "runs" / run).glob("platform*")
    s3.spoil(path, None)
    looked = checks(keeper.run("look_at_backups"))["every_object_is_there"]
    assert not looked.passed
    assert "platform.dump.zst.age: is missing" in str(looked.metadata["findings"].value)


@pytest.mark.parametrize(
    "schedule", [drill.prove_backups_every_night, drill.look_into_backups_every_hour]
)
def test_nothing_is_opened_before_there_is_a_backup(
    keeper: Keeper, schedule: dg.ScheduleDefinition
):
    def asked() -> object:
        with dg.build_schedule_context(
            instance=keeper.instance, resources={"backups": keeper.backups}
        ) as context:
            return schedule(context)

    assert isinstance(asked(), dg.SkipReason)
    keeper.run("back_up")
    assert isinstance(asked(), dg.RunRequest)


def test_what_each_run_kept_is_opened_once_and_again_while_something_is_wrong_with_it(
    keeper: Keeper, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
):
    def looked() -> tuple[list[int], bool]:
        result = keeper.run("look_into_backups")
        told = keeper.told("new_runs")
        return [told["runs"], told["until"], told["left"]], checks(result)[
            "every_new_run_opens"
        ].passed

    for _ in range(2):
        keeper.run("back_up")
    assert looked() == ([2, 2, 0], True)
    assert looked() == ([0, 2, 0], True)
    keeper.run("back_up")
    sealed = keeper.backups.find(None)
    (name,) = [name for name, one in sealed.objects.items() if one.kind is Kind.POSTGRES]
    path = Path(str(keeper.backups.store)) / name
    whole = path.read_bytes()
    path.write_bytes(whole[:-1] + bytes([whole[-1] ^ 1]))
    assert looked() == ([1, 3, 0], False)
    assert looked() == ([1, 3, 0], False)
    keeper.run("back_up")
    assert looked() == ([2, 4, 0], False)
    assert keeper.told("new_runs")["unsound"] == [3]
    path.write_bytes(whole)
    assert looked() == ([1, 4, 0], True)
    for _ in range(2):
        keeper.run("back_up")
    monkeypatch.setattr(drill, "AT_ONCE", timedelta(0))
    assert looked() == ([1, 5, 1], True)
    assert looked() == ([1, 6, 0], True)
    path.write_bytes(b"")
    looked_into = keeper.backups.look_into_new(6, [1, 3], 0.0)
    assert (looked_into.unsound, looked_into.left) == ([3], 1)  # there was time for the first alone
    keeper.backups.let_go([3], datetime.now(UTC))
    assert keeper.backups.look_into_new(6, [3]).runs == 0
    assert keeper.backups.look_into_new(1000).until == 6  # another line may have come that far


def test_a_scratch_that_cannot_be_used_is_told_and_nothing_counts_as_looked_into(
    keeper: Keeper, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
):
    keeper.run("back_up")
    monkeypatch.setenv("RUL_BACKUP_SCRATCH", str(tmp_path))

    def full(**_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as small:
        small.setattr("rul_backup.verification.TemporaryFile", full)
        told = why(keeper.run("look_into_backups", fails=True))
    assert f"{tmp_path} is too small to look into" in told
    assert "name a larger folder by RUL_BACKUP_SCRATCH" in told
    keeper.run("look_into_backups")
    assert keeper.told("new_runs")["runs"] == 1


def test_what_is_beyond_the_machine_is_read_again_a_part_an_hour(
    keeper: Keeper, s3: S3, monkeypatch: pytest.MonkeyPatch
):
    keeper.run("back_up")
    keeper.run("look_into_backups")
    assert keeper.told("offsite_reread") == {"read": "nothing: RUL_BACKUP_OFFSITE is not set"}
    monkeypatch.setenv("RUL_BACKUP_OFFSITE", "s3://backups/again")
    monkeypatch.setenv("RUL_BACKUP_OFFSITE_OPTIONS", s3.options())
    keeper.run("back_up")
    read = set()
    for _ in range(5):  # each at least one of the five objects
        result = keeper.run("look_into_backups")
        assert checks(result)["what_is_beyond_is_what_was_written"].passed
        read.add(keeper.told("offsite_reread")["until"])
    assert len(read) == 5
    first = min((s3.files / "again" / "runs").rglob("*.age"))
    s3.spoil(first, b"x" * first.stat().st_size)
    for _ in range(6):
        result = keeper.run("look_into_backups")
    told = checks(result)["what_is_beyond_is_what_was_written"]
    assert not told.passed
    assert first.name in str(told.metadata["findings"].value)
    assert len(keeper.told("offsite_reread")["unsound"]) == 1


def test_what_shrank_under_half_of_the_week_s_median_is_told(keeper: Keeper, engine: sa.Engine):
    many = (
        "INSERT INTO units (fleet, unit) "
        "SELECT 'pumps', md5(n::text) FROM generate_series(1, 20000) AS n"
    )
    with begin(engine) as connection:
        connection.execute(sa.text(many))
    for _ in range(2):
        keeper.run("back_up")
    with begin(engine) as connection:
        connection.execute(sa.text("TRUNCATE units CASCADE"))
    told = checks(keeper.run("back_up"))["nothing_has_shrunk"]
    assert not told.passed
    assert told.severity is dg.AssetCheckSeverity.WARN
    assert "platform.dump has " in str(told.metadata["shrunk"].value)


def test_what_need_not_stay_goes_and_a_clock_that_jumped_lets_nothing_go(
    keeper: Keeper, monkeypatch: pytest.MonkeyPatch
):
    for _ in range(3):
        keeper.run("back_up")
    short = Policy(all_for=timedelta(0), daily_for=timedelta(0))
    monkeypatch.setattr(Backups, "policy", lambda _: short)
    objects = {name: one.sums.stored_bytes for found in keeper.backups.there()[:2]
               for name, one in found.sealed.objects.items()}  # fmt: skip
    stay = keeper.backups.find(None).objects
    frees = sum(size for name, size in objects.items() if name not in stay)
    with monkeypatch.context() as broken:
        broken.delattr(Backups, "let_go")
        result = keeper.run("let_backups_go", fails=True)
    said = [entry.user_message for entry in keeper.instance.all_logs(result.run_id)]
    assert f"planned: 2 runs go and 1 stay, which frees {frees} bytes: [1, 2]" in said
    assert len(keeper.backups.there()) == 3  # it was planned, and not done
    keeper.run("let_backups_go")
    (left,) = keeper.backups.there()
    assert left.sealed.manifest.number == 3
    assert keeper.backups.verify(Level.STORED, datetime.now(UTC)).findings == ()

    class Later(datetime):
        @classmethod
        def now(cls, tz=None):
            return datetime.now(tz) + timedelta(days=3)

    killed = Run(
        keeper.backups.store,
        maker_of(keeper.backups.keys_folder),
        datetime.now(UTC) - timedelta(hours=25),
    )
    killed.keep("platform.dump", Kind.POSTGRES, io.BytesIO(b"half"), {})
    monkeypatch.setattr(schedules, "datetime", Later)
    assert "backups had stopped, or" in why(keeper.run("let_backups_go", fails=True))
    assert not any(killed.name in name for name in keeper.backups.store.sizes())
    assert len(keeper.backups.there()) == 1
    with monkeypatch.context() as a_while:
        a_while.setattr("rul_assets.backup.resources.datetime", Later)
        a_while.setattr("rul_backup.keeping.datetime", Later)
        keeper.run("back_up")  # the clock is wrong still
    assert "the run 4 ended" in why(keeper.run("let_backups_go", fails=True))
    assert len(keeper.backups.there()) == 2
    keeper.backups.confirm_clock(Later.now(UTC))
    for _ in range(2):
        keeper.run("let_backups_go")
    assert len(keeper.backups.there()) == 1


def test_a_manifest_comes_back_from_beyond_and_one_that_is_nowhere_is_given_up_by_whoever_says_so(
    keeper: Keeper, s3: S3, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setenv("RUL_BACKUP_OFFSITE", "s3://backups/mending")
    monkeypatch.setenv("RUL_BACKUP_OFFSITE_OPTIONS", s3.options())
    keeper.run("back_up")
    monkeypatch.delenv("RUL_BACKUP_OFFSITE")
    keeper.run("back_up")
    keeper.run("back_up")
    for number in (1, 2):
        (keeper.backups.store.root / f"manifests/0000000{number}").unlink()
    assert "manifests/00000001 is missing" in why(keeper.run("let_backups_go", fails=True))
    monkeypatch.setenv("RUL_BACKUP_OFFSITE", "s3://backups/mending")
    told = why(keeper.run("mend_backups", fails=True))
    assert "manifests/00000002: nowhere any more; launch this again with `give_up: true`" in told
    assert [one.sealed.manifest.number for one in keeper.backups.there()] == [1, 3]
    decided = {"give_up": True}
    keeper.run("mend_backups", config={"ops": {"mend": {"config": decided}}})
    assert keeper.backups.verify(Level.STORED, datetime.now(UTC)).findings == ()
    keeper.run("let_backups_go")
    monkeypatch.setenv("RUL_BACKUP_OFFSITE", "s3://backups/mistyped")
    (keeper.backups.store.root / "manifests/00000001").unlink()
    told = why(
        keeper.run("mend_backups", config={"ops": {"mend": {"config": decided}}}, fails=True)
    )
    assert "of the job, `lost_beyond: true`" in told
    decided["lost_beyond"] = True
    keeper.run("mend_backups", config={"ops": {"mend": {"config": decided}}})
    assert keeper.backups.verify(Level.STORED, datetime.now(UTC)).findings == ()


def test_runs_that_were_given_up_are_no_jump_of_the_clock(
    keeper: Keeper, monkeypatch: pytest.MonkeyPatch
):
    begin, backups = datetime.now(UTC) - timedelta(hours=45), keeper.backups
    for hours in (0, 20, 40):
        moment = begin + timedelta(hours=hours)

        class Then(datetime):
            @classmethod
            def now(cls, tz=None, moment=moment):
                return moment.astimezone(tz)

        monkeypatch.setattr("rul_backup.keeping.datetime", Then)
        backups.make(moment)
    (backups.store.root / "manifests/00000002").unlink()
    backups.mend(backups.to_mend())
    assert backups.plan(backups.policy(), begin + timedelta(hours=45)).drop == ()


def test_without_redis_the_rest_is_kept(keeper: Keeper, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.delenv("RUL_REDIS_URL")
    keeper.run("back_up")
    assert keeper.told("redis_snapshot") == {"kept": "nothing: RUL_REDIS_URL is not set"}
    assert [one.name for one in keeper.backups.find(None).manifest.artefacts] == [KEPT[0], KEPT[2]]


def test_without_keys_nothing_is_kept_and_the_remedy_is_told(keeper: Keeper, tmp_path: Path):
    for path in (tmp_path / "data" / "backup-keys").iterdir():
        path.unlink()
    told = why(keeper.run("back_up", fails=True))
    assert "`rul backup keys` makes the keys of a platform" in told
    assert keeper.backups.store.sizes() == {}


def test_a_snapshot_that_fails_leaves_no_run(keeper: Keeper, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("RUL_REDIS_URL", "redis://127.0.0.1:9")
    monkeypatch.setattr("rul_assets.failures.RETRIES", 0)
    assert "127.0.0.1:9 does not answer" in why(keeper.run("back_up", fails=True))
    assert keeper.backups.there() == []
    assert keeper.backups.store.sizes() == {}
    keeper.backups._redis_url = "redis://127.0.0.1:9"
    with pytest.raises(Unavailable):
        keeper.backups.make(datetime.now(UTC))
    assert keeper.backups.store.sizes() == {}


def test_a_run_without_a_dump_of_its_own_is_none_and_one_that_died_begins_at_the_dump(
    keeper: Keeper,
):
    made = keeper.run("back_up")
    assert made.dagster_run.tags["dagster/retry_strategy"] == "ALL_STEPS"
    alone = [assets.model_snapshot.key, assets.backup_manifest.key]
    told = why(keeper.run("back_up", fails=True, only=alone))
    assert "has no dump of the database, and an earlier one is of an earlier moment" in told
    assert len(keeper.backups.there()) == 1


def test_a_manifest_that_could_not_be_written_down_at_once_is_written_once(
    keeper: Keeper, monkeypatch: pytest.MonkeyPatch
):
    record, left = backup_rows.record, [1]

    def fails_at_first(*args) -> None:
        if left:
            left.pop()
            raise Unavailable("PostgreSQL is away")
        record(*args)

    monkeypatch.setattr(backup_rows, "record", fails_at_first)
    monkeypatch.setattr("rul_assets.failures.FIRST_WAIT_SECONDS", 0.01)
    keeper.run("back_up")
    assert left == []
    assert [found.sealed.manifest.number for found in keeper.backups.there()] == [1]
    assert [one.number for one in backup_rows.known(keeper.backups._engine, "local")] == [1]


def test_every_half_hour_is_half_an_hour_and_every_job_has_a_schedule():
    found = [*(definitions.defs().jobs or ()), *(drill.defs().jobs or ())]
    every = [
        *schedules.SCHEDULES, drill.prove_backups_every_night, drill.look_into_backups_every_hour
    ]  # fmt: skip
    jobs = {schedule.job_name: schedule for schedule in every}
    assert jobs.keys() | {"mend_backups"} == {job.name for job in found}  # that people launch
    assert {one.default_status for one in jobs.values()} == {dg.DefaultScheduleStatus.RUNNING}
    assert jobs["back_up"].cron_schedule == "7,37 * * * *"
    for asset in (assets.postgres_snapshot, assets.backup_manifest, drill.restore_drill):
        assert next(iter(asset.specs)).freshness_policy is not None


def test_the_laptop_has_the_main_job_and_its_backups_and_the_one_is_no_part_of_the_other():
    found = laptop.defs()
    everything = found.resolve_job_def("everything")
    assert not SNAPSHOTS & {
        key.to_user_string() for key in everything.asset_layer.executable_asset_keys
    }
    names = {key.to_user_string() for key in found.resolve_asset_graph().get_all_asset_keys()}
    assert names > {*SNAPSHOTS, "restore_drill", "raw_readings"}
    assert dg.Definitions.validate_loadable(found) is None


def test_a_base_is_kept_once_a_day_where_somebody_may_replicate(
    keeper: Keeper, database_url: str, monkeypatch: pytest.MonkeyPatch, engine: sa.Engine
):
    keeper.run("back_up")
    assert "RUL_BACKUP_REPLICATION_URL is not set" in keeper.told("base_snapshot")["kept"]
    monkeypatch.setenv("RUL_BACKUP_REPLICATION_URL", database_url)
    root = Path(str(keeper.backups.store)).parent
    backups = Backups(root, BackupSettings(), engine, None)
    keeper.run("back_up")
    first = backups.find(None).manifest
    kept = {one.name: one.run for one in first.artefacts}
    assert sorted(kept) == sorted([*KEPT, "base.tar"])
    assert not kept["base.tar"]
    keeper.run("back_up")
    assert keeper.told("base_snapshot")["kept_by"] == first.run
    day = timedelta(hours=25)
    assert backups.verify(Level.CONTENT, datetime.now(UTC)).findings == ()
    late = backups.verify(Level.EXISTS, datetime.now(UTC) + day).findings  # nobody archives here
    assert any("with it begins the base of" in one.problem for one in late)
    run = backups.begin(datetime.now(UTC) + day)
    assert not backups.keep(run, Kind.BASE).run
    run = backups.begin(datetime.now(UTC))
    assert backups.keep(run, Kind.BASE).run == first.run
    (name,) = [
        one for one in backups.store.sizes() if one.endswith(f"{first.run}/base.tar.zst.age")
    ]
    backups.store.remove(name)
    assert not backups.keep(backups.begin(datetime.now(UTC)), Kind.BASE).run


def test_what_the_stack_has_is_kept_once_a_week_where_there_is_one(
    keeper: Keeper, database_url: str, monkeypatch: pytest.MonkeyPatch, engine: sa.Engine
):
    keeper.run("back_up")
    assert "nor RUL_BACKUP_STACK is set" in keeper.told("stack_snapshot")["kept"]
    root = Path(str(keeper.backups.store)).parent
    log = root / "stack" / "dagster_logs" / "a.log"
    log.parent.mkdir(parents=True)
    log.write_text("said\n" * 1000)
    monkeypatch.setenv("RUL_BACKUP_STACK", str(root / "stack"))
    monkeypatch.setenv("RUL_BACKUP_DAGSTER_URL", database_url)
    keeper.run("back_up")
    backups = Backups(root, BackupSettings(), engine, None)
    first = backups.find(None).manifest
    kept = {one.name: one.run for one in first.artefacts}
    assert sorted(kept) == sorted([*KEPT, "dagster.dump", "stack.tar"])
    assert (kept["dagster.dump"], kept["stack.tar"]) == ("", "")
    assert keeper.told("stack_snapshot")["files of dagster_logs"] == 1
    log.write_text("said\n")
    keeper.run("back_up")
    assert keeper.told("stack_snapshot")["kept"].count(first.run) == 2
    assert backups.verify(Level.STRUCTURE, datetime.now(UTC)).findings == ()
    assert checks(keeper.run("prove_backups"))["what_is_restored_is_what_was_kept"].passed

    class InAWeek(datetime):
        @classmethod
        def now(cls, tz=None):
            return datetime.now(tz) + timedelta(days=7)

    monkeypatch.setattr("rul_assets.backup.resources.datetime", InAWeek)
    told = checks(keeper.run("back_up"))["nothing_has_shrunk"]
    assert keeper.told("stack_snapshot")["kept"].count("this run") == 2
    assert told.passed  # old logs go by themselves


def test_a_stack_that_cannot_be_read_is_told_and_the_platform_is_kept_all_the_same(
    keeper: Keeper, database_url: str, monkeypatch: pytest.MonkeyPatch, engine: sa.Engine
):
    root = Path(str(keeper.backups.store)).parent
    grafana = root / "stack" / "grafana"
    grafana.mkdir(parents=True)
    (grafana / "grafana.db").write_text("no database")
    monkeypatch.setenv("RUL_BACKUP_STACK", str(root / "stack"))
    monkeypatch.setenv("RUL_BACKUP_DAGSTER_URL", database_url)
    told = checks(keeper.run("back_up"))["what_the_stack_has_is_kept"]
    assert not told.passed
    assert "grafana.db" in str(told.metadata["stack"].value)
    (found,) = keeper.backups.there()
    kept = {one.name for one in found.sealed.manifest.artefacts}
    assert kept == {*KEPT, "dagster.dump"}
    assert keeper.backups.verify(Level.STORED, datetime.now(UTC)).findings == ()
    backups = Backups(root, BackupSettings(), engine, None)
    made = backups.make(datetime.now(UTC))
    assert "grafana.db" in backups.left_out[Kind.STACK]
    assert "stack.tar" not in {one.name for one in made.manifest.artefacts}


@pytest.mark.parametrize("missing", ["RUL_BACKUP_DAGSTER_URL", "RUL_BACKUP_STACK"])
def test_of_a_stack_what_is_named_is_kept_and_what_is_not_is_refused(
    keeper: Keeper, database_url: str, monkeypatch: pytest.MonkeyPatch, engine: sa.Engine, missing
):
    root = Path(str(keeper.backups.store)).parent
    (root / "stack" / "grafana").mkdir(parents=True)
    monkeypatch.setenv("RUL_BACKUP_STACK", str(root / "stack"))
    monkeypatch.setenv("RUL_BACKUP_DAGSTER_URL", database_url)
    monkeypatch.delenv(missing)
    kind = {"RUL_BACKUP_DAGSTER_URL": Kind.DAGSTER, "RUL_BACKUP_STACK": Kind.STACK}[missing]
    keeper.run("back_up")
    backups = Backups(root, BackupSettings(), engine, None)
    kinds = {one.kind for one in backups.find(None).manifest.artefacts}
    assert {Kind.DAGSTER, Kind.STACK} - kinds == {kind}
    with pytest.raises(SettingsError, match=f"{missing} is not set"):
        backups.keep(backups.begin(datetime.now(UTC)), kind)
