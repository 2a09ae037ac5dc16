"""What ``restore.sh`` asks of Docker, by a Docker that only notes it; no stack is run here."""

import os
import subprocess
from pathlib import Path
from typing import NamedTuple

import pytest

PROJECT = Path(__file__).parents[2]
SCRIPT = PROJECT / "docker" / "scripts" / "restore.sh"
DOCKER = """#!/bin/sh
printf '%s\\n' "$(printf '%s' "$*" | tr '\\n' ' ')" >>"$NOTES/calls"
case "$1 $2" in
"image inspect") exit "${IMAGE:-0}" ;;
"compose config") printf 'postgres\\napi\\nredis\\nnginx\\n' ;;
"compose exec")
  case "$*" in
  *"FROM runs"*) printf '%s' "${LIVED-lived}" ;;
  *) printf '%s' "${THERE-there}" ;;
  esac
  ;;
"compose create") case "$*" in *"${MISSING:-nothing}"*) exit 1 ;; esac ;;
"volume inspect") printf '%s' "${RESTORED:-}" ;;
"run --rm")
  case "$*" in
  *--interactive*) mkdir -p "$NOTES/piped" && tar -xf - -C "$NOTES/piped" ;;
  *"--entrypoint find"*) printf '%s' "${UNPACKED:-}" ;;
  *"--entrypoint tar"*) printf 'settings' ;;
  esac
  case "$*" in *"${FAILS:-restore}"*) exit "${ENDS:-0}" ;; esac
  ;;
esac
"""


class Machine(NamedTuple):
    """A folder of the project, and a Docker."""

    folder: Path

    def run(self, *arguments: str, code: int = 0, **environment: str) -> str:
        done = subprocess.run(
            ["/bin/sh", SCRIPT, *arguments],
            cwd=self.folder,
            env={
                "PATH": f"{self.folder / 'bin'}:{os.defpath}", "NOTES": str(self.folder),
                "TMPDIR": str(self.folder / "tmp"), **environment,
            },
            capture_output=True, text=True, check=False,
        )  # fmt: skip
        assert done.returncode == code, done.stderr
        assert [*(self.folder / "tmp").iterdir()] == []  # no link to a key is left
        return done.stdout + done.stderr

    @property
    def calls(self) -> list[str]:
        path = self.folder / "calls"
        return path.read_text().splitlines() if path.exists() else []

    @property
    def piped(self) -> dict[str, str]:
        return {path.name: path.read_text() for path in (self.folder / "piped").iterdir()}


@pytest.fixture
def machine(tmp_path: Path) -> Machine:
    for name, text in {
        "bin/docker": DOCKER, "compose.yaml": "", "tmp/x": "",
        "secrets/migrator_database_url": "owner", "secrets/database_admin_url": "admin",
        "secrets/restore_redis_url": "redis", "secrets/backup_identity": "daily",
        "secrets/backup_verify_key": "known", "secrets/grafana_admin_password": "another",
        "secrets/drill_offsite_options": "{}",
        "safe/escrow": "escrow", "safe/key": "public", "run.tar": "",
    }.items():  # fmt: skip
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(text)
    (tmp_path / "tmp" / "x").unlink()
    (tmp_path / "bin" / "docker").chmod(0o755)
    return Machine(tmp_path)


def test_the_shell_takes_it_and_it_says_how_it_is_used(machine: Machine):
    subprocess.run(["/bin/sh", "-n", SCRIPT], check=True)
    assert os.access(SCRIPT, os.X_OK)
    assert "Usage: docker/scripts/restore.sh" in machine.run("--help")
    assert machine.calls == []


def test_the_newest_is_restored_with_all_else_stopped_and_the_keys_piped(machine: Machine):
    assert "start the rest: make up" in machine.run()
    _, config, stop, up, there, looked, run, *after = machine.calls
    assert config == "compose config --services"
    assert stop == "compose stop api nginx"
    assert up == "compose up --detach --wait --no-build postgres redis"
    assert there.startswith("compose exec -T postgres psql")
    assert looked.startswith("volume inspect")
    # Where Dagster has runs, what the stack has stays as it is.
    assert [call for call in after if not call.startswith("volume rm")] == [lived()]
    assert run.endswith('exec "$@" restore rul backup restore --over-live')
    for wanted in (
        "--user 10002:10000 ", "--network rul_backend ", "--volume rul_training_data:/data ",
        "--volume rul_model_artifacts:/data/models ", "--volume rul_backups:/backups ",
        "RUL_DATABASE_URL_FILE=/tmp/keys/owner_url", " rul-backup:dev sh -c ",
    ):  # fmt: skip
        assert wanted in run
    assert machine.piped == {
        "backup_identity": "daily", "backup_verify_key": "known", "owner_url": "owner",
        "admin_url": "admin", "redis_url": "redis",
    }  # fmt: skip


def test_an_archive_and_what_is_in_the_safe_suffice_on_a_new_machine(machine: Machine):
    (machine.folder / "secrets/backup_identity").unlink()
    (machine.folder / "secrets/backup_verify_key").unlink()
    machine.run(
        "run.tar", "--identity", "safe/escrow", "--verify-key", "safe/key", "--despite-golden",
        THERE="",
    )  # fmt: skip
    assert "compose run --rm -T migrate" in machine.calls
    run = restore_of(machine)
    assert f"--volume {machine.folder}/run.tar:/restore/archive.tar:ro" in run
    assert run.endswith(
        "--over-live --despite-golden --identity /tmp/keys/given_identity "
        "--verify-key /tmp/keys/given_verify_key --store /restore/archive.tar"
    )
    assert machine.piped["given_identity"] == "escrow"
    assert machine.piped["given_verify_key"] == "public"


def test_what_lies_beyond_is_fetched_first_by_a_container_that_reaches_nothing_else(
    machine: Machine,
):
    (machine.folder / ".env").write_text("STACK_BACKUP_OFFSITE=s3://bucket/plant\n")
    machine.run("--off-site", "7", "--verify-key", "safe/key")
    created, fetch = [call for call in machine.calls if "alertmanager" in call or "export" in call]
    restore = restore_of(machine)
    assert created.startswith("compose create --no-build alertmanager")
    assert "--network rul_egress --env RUL_BACKUP_OFFSITE=s3://bucket/plant " in fetch
    assert fetch.endswith(
        "rul backup export --store off-site --to /backups/.from-beyond.tar --run 7 "
        "--verify-key /tmp/keys/given_verify_key"
    )
    assert not {"--volume rul_training_data:/data", "_URL_FILE"} & {*fetch.split()}
    assert "--network rul_backend" in restore
    assert "OFFSITE" not in restore
    assert restore.endswith("--run 7 --store /backups/.from-beyond.tar")


def test_a_moment_is_recovered_where_there_is_room_and_its_log_is_fetched(machine: Machine):
    machine.run("--to", "latest", "--off-site", STACK_BACKUP_OFFSITE="s3://bucket/plant")
    (fetch,) = [call for call in machine.calls if "rul backup export" in call]
    assert fetch.endswith("--to /backups/.from-beyond.tar --with-log")
    (restore,) = [call for call in machine.calls if "rul backup restore " in call]
    assert "--volume rul_drill_scratch:/scratch " in restore
    assert restore.endswith("--over-live --to latest --store /backups/.from-beyond.tar")
    told = machine.run("--forget", "--to", "latest", code=1)
    assert "--forget takes no archive, manifest, store or moment" in told
    assert "--to needs a moment, or latest" in machine.run("--to", code=1)


def test_a_manifest_is_named_as_a_run(machine: Machine):
    machine.run("manifests/00000007")
    assert restore_of(machine).endswith("--over-live --run manifests/00000007")


def test_to_forget_stops_nothing(machine: Machine):
    machine.run("--forget")
    assert not [call for call in machine.calls if "stop" in call]
    assert machine.calls[-1].endswith("rul backup restore --forget")


def test_what_does_not_end_well_is_told(machine: Machine):
    assert "it did not end well" in machine.run(code=1, ENDS="1")


NEW = {"LIVED": "", "UNPACKED": "configuration\ndagster.dump\ndagster_logs\nprometheus\n"}


def test_where_nobody_has_lived_what_the_stack_had_comes_back_dagster_s_database_last(
    machine: Machine,
):
    assert "start the rest: make up" in machine.run("run.tar", code=0, **NEW)
    after = machine.calls[machine.calls.index(restore_of(machine)) + 1 :]
    archive = f"--volume {machine.folder}/run.tar:/restore/archive.tar:ro"
    for wanted, call in zip(
        (
            "volume rm --force rul_restoring",  # of another run that broke off
            lived(),
            "volume create --label rul.restored=run: --store /restore/archive.tar rul_restoring",
            "rul backup restore-stack --into /restoring/stack --store /restore/archive.tar",
            "--entrypoint find",
            "compose create --no-build prometheus", "prometheus_data:/volume",
            "compose create --no-build dagster-janitor", "dagster_logs:/volume",
            "--entrypoint tar",
            "rul backup restore-stack --dagster --store /restore/archive.tar",
            "volume rm --force rul_restoring",
        ),
        after,
        strict=True,
    ):  # fmt: skip
        assert wanted in call
        assert archive in call or "rul backup" not in call
    unpacks, puts, last = after[3], after[6], after[10]
    assert "--network none" in unpacks
    assert "--network none --user 65534:65534 --group-add 10000" in puts
    assert "rul_restoring:/restoring:ro" in puts
    assert "RUL_DATABASE_ADMIN_URL_FILE=/tmp/keys/admin_url" in last
    assert (machine.folder / "restored-configuration.tar").read_text() == "settings"


def test_of_a_run_without_a_stack_nothing_is_put_back(machine: Machine):
    machine.run(LIVED="")
    assert not [call for call in machine.calls if ":/volume" in call or "create --no-build" in call]
    assert not (machine.folder / "restored-configuration.tar").exists()


@pytest.mark.parametrize(
    ("environment", "told"),
    [
        ({"FAILS": "restore-stack --into", "ENDS": "1"}, "what the stack had is not: why is above"),
        ({"MISSING": "prometheus"}, "prometheus cannot be made: why is above; put its image here"),
        ({"FAILS": ":/volume", "ENDS": "1"}, "prometheus was not put back: why is above"),
        (
            {"FAILS": "--entrypoint tar", "ENDS": "1"},
            "restored-configuration.tar cannot be written",
        ),
        ({"FAILS": "restore-stack --dagster", "ENDS": "1"}, "Dagster's database was not put back"),
    ],
)
def test_what_of_the_stack_does_not_come_back_is_told_and_the_same_command_goes_on(
    machine: Machine, environment: dict[str, str], told: str
):
    assert told in machine.run("7", code=1, **NEW, **environment)
    assert "volume rm --force rul_restoring" not in machine.calls[-1]
    (machine.folder / "calls").unlink()
    assert "is restored already: goes on" in machine.run(
        "7", code=0, **NEW, RESTORED="run: --run 7"
    )
    assert not [call for call in machine.calls if "--over-live" in call]
    assert "rul backup restore-stack --dagster --run 7" in machine.calls[-2]
    elsewhen = machine.run("7", "--to", "latest", code=0, **NEW, RESTORED="run: --run 7")
    assert "goes on" not in elsewhen


@pytest.mark.parametrize(
    "environment",
    [
        {"LIVED": "", "RESTORED": "run: --run 6"},  # another run
        {"LIVED": "lived", "RESTORED": "run: --run 7"},  # the stack has been started since
    ],
)
def test_a_command_goes_on_only_with_its_own_run_where_nobody_has_lived_since(
    machine: Machine, environment: dict[str, str]
):
    machine.run("7", code=0, **environment)
    assert restore_of(machine).endswith("--over-live --run 7")


def lived() -> str:
    """The question whether Dagster has a run."""
    return (
        "compose exec -T postgres psql -U postgres -d dagster -Atc SELECT 'lived' FROM runs LIMIT 1"
    )


def restore_of(machine: Machine) -> str:
    """The container that restores the platform."""
    (run,) = [call for call in machine.calls if "rul backup restore --over-live" in call]
    return run


SETTLE = SCRIPT.read_text().partition("settle='")[2].partition("'\n#")[0]


def settle(tmp_path: Path, *, fails_at: str = "") -> str:
    """The script of the container that fills a volume, in folders of the test."""
    script = SETTLE.replace("/volume", str(tmp_path / "volume"))
    script = script.replace("/restoring/stack", str(tmp_path / "unpacked"))
    if fails_at:
        assert fails_at in script
        script = script.replace(fails_at, "exit 9; " + fails_at, 1)
    done = subprocess.run(
        ["/bin/sh", "-euc", script, "settle", "prometheus", "u=rwX,go=rX"],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == (9 if fails_at else 0), done.stderr
    return done.stderr


@pytest.fixture
def unpacked(tmp_path: Path) -> Path:
    folder = tmp_path / "unpacked" / "prometheus" / "block" / "chunks"
    folder.mkdir(parents=True)
    (folder / "1").write_text("one")
    (folder.parent / "meta.json").write_text("{}")
    (tmp_path / "volume").mkdir()
    return tmp_path


def in_volume(folder: Path) -> set[str]:
    return {
        path.relative_to(folder / "volume").as_posix()
        for path in (folder / "volume").rglob("*")
        if path.is_file()
    }


WHOLE = {"block/chunks/1", "block/meta.json"}


def test_an_empty_volume_is_filled_also_where_its_image_makes_folders(unpacked: Path):
    (unpacked / "volume" / "block").mkdir()
    settle(unpacked)
    assert in_volume(unpacked) == WHOLE
    assert [path.name for path in (unpacked / "volume").iterdir()] == ["block"]
    assert (unpacked / "volume" / "block" / "chunks").stat().st_mode & 0o777 == 0o755


@pytest.mark.parametrize("step", ["chmod -R", "mv .restoring", "find .restored", "rmdir"])
def test_who_is_killed_while_a_volume_is_filled_does_it_again(unpacked: Path, step: str):
    settle(unpacked, fails_at=step)
    assert settle(unpacked) == ""
    assert in_volume(unpacked) == WHOLE
    assert not list((unpacked / "volume").glob(".rest*"))


def test_a_volume_that_has_files_stays_as_it_is(unpacked: Path):
    (unpacked / "volume" / "queries.active").write_text("mine")
    assert "the volume of prometheus has files already and stays" in settle(unpacked)
    assert in_volume(unpacked) == {"queries.active"}


@pytest.mark.parametrize(
    ("arguments", "environment", "told"),
    [
        (("--what",), {}, "--what is no option"),
        (("--identity",), {}, "--identity needs a file"),
        (("a.tar", "b.tar"), {}, "a.tar and b.tar: name one"),
        (("--forget", "a.tar"), {}, "takes no archive"),
        (("a.tar",), {}, "a.tar is no file that can be read"),
        (("--identity", "none"), {}, "none is no file that can be read; give the file from"),
        ((), {"IMAGE": "1"}, "the image rul-backup:dev is not here; build it"),
        ((), {"STACK_SECRETS": "none"}, "none/migrator_database_url is no file"),
        ((), {"RESTORE_KEYS": "none"}, "none has no backup_identity; name the keys' folder"),
        (
            ("--identity", "safe/escrow"),
            {"RESTORE_KEYS": "none"},
            "none has no backup_verify_key; name the keys' folder",
        ),
        (("--off-site",), {}, "STACK_BACKUP_OFFSITE is not set, nor is it in .env"),
        (("--off-site", "a.tar"), {}, "a.tar lies here; leave --off-site away"),
        (("--off-site", "--forget"), {}, "takes no archive, manifest, store or moment"),
        (
            ("--off-site",),
            {"STACK_BACKUP_OFFSITE": "s3://a/b", "RESTORE_OFFSITE_SECRET": "none"},
            "none is no file that can be read; write the key of s3://a/b",
        ),
    ],
)
def test_whatever_is_wrong_is_found_before_anything_is_stopped(
    machine: Machine, arguments: tuple[str, ...], environment: dict[str, str], told: str
):
    assert told in machine.run(*arguments, code=1, **environment)
    assert {call.split()[0] for call in machine.calls} <= {"image"}


def test_elsewhere_than_in_the_project_s_folder_it_does_nothing(machine: Machine):
    (machine.folder / "compose.yaml").unlink()
    assert "run this in the project's folder" in machine.run(code=1)
