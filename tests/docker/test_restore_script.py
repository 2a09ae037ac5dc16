"""What ``restore.sh`` asks of Docker, by a Docker that only notes it; no stack is run here."""

import os
import re
import shutil
import subprocess
from pathlib import Path
from typing import NamedTuple

import pytest
import yaml

PROJECT = Path(__file__).parents[2]
SCRIPT = PROJECT / "docker" / "scripts" / "restore.sh"
DOCKER = r"""#!/bin/sh
printf '%s\n' "$(printf '%s' "$*" | tr '\n' ' ')" >>"$NOTES/calls"
call=$(wc -l <"$NOTES/calls")
volumes=$NOTES/volumes
disk='/dev/vda 1000 900 100 90% /var/lib/postgresql/data'
case "$1 $2" in
"image inspect") exit "${IMAGE:-0}" ;;
"compose config")
  case "$*" in
  *--services*) printf 'postgres\napi\nredis\nnginx\n' ;;
  *)
    [ -z "${BROKEN:-}" ] || exit 15
    set -a
    [ ! -f .env ] || . ./.env
    "$NOTES/bin/config"
    ;;
  esac
  ;;
"compose exec")
  case "$*" in
  *"FROM runs"*) printf '%s' "${LIVED-lived}" ;;
  *df*) printf 'Filesystem 1024-blocks Used Available Capacity Mounted on\n%s\n' "${DISK-$disk}" ;;
  *) printf '%s' "${THERE-there}" ;;
  esac
  ;;
"compose create" | "compose stop" | "compose up")
  case "$*" in *"${MISSING:-no call}"*) exit 1 ;; esac
  ;;
"compose run") exit "${MIGRATE:-0}" ;;
"volume create")
  shift 2
  : >"$NOTES/labels"
  while [ $# -gt 1 ]; do
    printf '%s\n' "$2" >>"$NOTES/labels"
    shift 2
  done
  [ -e "$volumes/$1" ] || mv "$NOTES/labels" "$volumes/$1"
  ;;
"volume rm") rm -f "$volumes/$4" ;;
"volume inspect")
  case "$*" in
  *--format*)
    label=${4#*\"}
    sed -n "s/^${label%%\"*}=//p" "$volumes/$5"
    ;;
  *) [ -e "$volumes/$3" ] ;;
  esac
  ;;
"ps --quiet")
  case "$*" in *oneoff*) running="$NOTES/people" ;; *) running="$NOTES/runs" ;; esac
  [ ! -e "$running" ] || cat "$running"
  ;;
"stop --time") [ -n "${STUBBORN:-}" ] || rm -f "$NOTES/people" "$NOTES/runs" ;;
"run --rm")
  case "$*" in
  *--interactive*) mkdir -p "$NOTES/piped/$call" && tar -xf - -C "$NOTES/piped/$call" ;;
  *"touch"*"/restoring/.last"*) : >"$NOTES/last" ;;
  *"/restoring/.last"*) [ -e "$NOTES/last" ] || exit 1 ;;
  *"--entrypoint find"*) printf '%s' "${UNPACKED:-}" ;;
  *"--entrypoint tar"*) printf 'settings' ;;
  esac
  case "$*" in *"${FAILS:-no call}"*) exit "${ENDS:-0}" ;; esac
  case "$*" in *"rul backup needs"*) printf '%s\n' "${NEEDS:-102400}" ;; esac
  case "$*" in *"rul backup which"*) printf '%s\n' "${WHICH:-20261129T083000Z-abcdef}" ;; esac
  ;;
esac
"""
RUN = "20261129T083000Z-abcdef"
# As Compose 2.26 writes it.
CONFIG = r"""#!/bin/sh
project=${COMPOSE_PROJECT_NAME:-rul}
secrets=${STACK_SECRETS:-secrets}
cat <<END
{
  "name": "$project",
  "networks": {
    "backend": {
      "name": "${project}_backend",
      "internal": true
    },
    "egress": {
      "name": "${project}_egress"
    }
  },
  "secrets": {
    "database_admin_url": {
      "name": "${project}_database_admin_url",
      "file": "$(printf '%s' "$PWD/$secrets" | sed 's/\$/$$/g; s/&/\\u0026/g')/database_admin_url"
    }
  },
  "services": {
    "wal-bringer": {
      "command": [
        "rul"
      ],
      "environment": {
        "RUL_BACKUP_OFFSITE": "${STACK_BACKUP_OFFSITE:-}",
        "RUL_BACKUP_OFFSITE_OPTIONS_FILE": "/run/secrets/offsite_options"
      },
      "image": "${STACK_BACKUP_IMAGE:-rul-backup:dev}",
      "secrets": [
        {
          "source": "backup_offsite_options",
          "target": "offsite_options"
        }
      ],
      "user": "10002:10000"
    }
  },
  "volumes": {
END
for volume in backups dagster_logs drill_scratch grafana_data model_artifacts postgres_data \
  prometheus_data training_data; do
  printf '    "%s": {\n      "name": "%s"\n    },\n' "$volume" "${project}_$volume"
done
printf '  }\n}\n'
"""
LIVED_IN = ("rul_postgres_data", "rul_training_data", "rul_model_artifacts", "rul_backups")


class Machine(NamedTuple):
    """A folder of the project, and a Docker."""

    folder: Path
    user: int | None = None
    """Who runs the script, where that is not the test's user."""

    def run(self, *arguments: str, code: int = 0, **environment: str) -> str:
        done = subprocess.run(
            ["/bin/sh", SCRIPT, *arguments],
            cwd=self.folder,
            env={
                "PATH": f"{self.folder / 'bin'}:{os.defpath}", "NOTES": str(self.folder),
                "TMPDIR": str(self.folder / "tmp"), **environment,
            },
            capture_output=True, text=True, check=False, user=self.user,
        )  # fmt: skip
        assert done.returncode == code, done.stderr
        assert [*(self.folder / "tmp").iterdir()] == []  # no link to a key is left
        return done.stdout + done.stderr

    def empty(self) -> None:
        """As new: nothing of a stack is there."""
        for path in (self.folder / "volumes").iterdir():
            path.unlink()

    @property
    def calls(self) -> list[str]:
        path = self.folder / "calls"
        return path.read_text().splitlines() if path.exists() else []

    def forget_calls(self) -> None:
        (self.folder / "calls").unlink()
        shutil.rmtree(self.folder / "piped")

    def call(self, part: str) -> str:
        """The only call with this in it."""
        (found,) = [call for call in self.calls if part in call]
        return found

    def piped(self, part: str) -> dict[str, str]:
        """The keys that the only call with this in it was given."""
        folder = self.folder / "piped" / str(self.calls.index(self.call(part)) + 1)
        return {path.name: path.read_text() for path in folder.iterdir()}


@pytest.fixture
def machine(tmp_path: Path) -> Machine:
    for name, text in {
        "bin/docker": DOCKER, "bin/config": CONFIG, "compose.yaml": "", "tmp/x": "",
        "secrets/migrator_database_url": "owner", "secrets/database_admin_url": "admin",
        "secrets/restore_redis_url": "redis", "secrets/backup_identity": "daily",
        "secrets/backup_verify_key": "known", "secrets/grafana_admin_password": "another",
        "secrets/drill_offsite_options": "{}",
        "safe/escrow": "escrow", "safe/key": "public", "run.tar": "",
        **{f"volumes/{name}": "" for name in LIVED_IN},
    }.items():  # fmt: skip
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(text)
    (tmp_path / "tmp" / "x").unlink()
    for name in ("docker", "config"):
        (tmp_path / "bin" / name).chmod(0o755)
    return Machine(tmp_path)


def test_the_shell_takes_it_and_it_says_how_it_is_used(machine: Machine):
    subprocess.run(["/bin/sh", "-n", SCRIPT], check=True)
    assert os.access(SCRIPT, os.X_OK)
    assert "Usage: docker/scripts/restore.sh" in machine.run("--help")
    assert machine.calls == []


def test_the_newest_is_restored_with_all_else_stopped_and_the_keys_piped(machine: Machine):
    assert "start the rest: make up" in machine.run("--over-live")
    calls = [call for call in machine.calls if not call.startswith(("volume", "image"))]
    for wanted, call in zip(
        (
            "compose config --format json",
            "compose up --detach --wait --no-build --no-recreate postgres redis",
            "compose create --no-build --no-recreate wal-bringer dagster-drill",
            "rul backup which", f"rul backup needs --run {RUN}",
            "compose exec -T postgres df -Pk /var/lib/postgresql/data",
            "compose config --services", "compose stop api nginx",
            "ps --quiet --filter label=rul.stack=rul", "ps --quiet", "ps --quiet", "ps --quiet",
            "compose exec -T postgres psql", f"rul backup restore --over-live --run {RUN}",
            # Where Dagster has runs, what the stack has stays as it is.
            lived(),
        ),
        calls,
        strict=True,
    ):  # fmt: skip
        assert wanted in call
    which, run = machine.call("rul backup which"), restore_of(machine)
    assert "--network none --volume rul_training_data:/data:ro" in which
    assert run.endswith(f'exec "$@" restore rul backup restore --over-live --run {RUN}')
    for wanted in (
        "--user 10002:10000 ", "--network rul_backend ", "--volume rul_training_data:/data ",
        "--volume rul_model_artifacts:/data/models ", "--volume rul_backups:/backups ",
        "RUL_DATABASE_URL_FILE=/tmp/keys/owner_url", " rul-backup:dev sh -c ",
    ):  # fmt: skip
        assert wanted in run
    assert machine.piped("rul backup which") == {
        "backup_identity": "daily", "backup_verify_key": "known",
    }  # fmt: skip
    assert machine.piped("rul backup restore --over-live") == {
        "backup_identity": "daily", "backup_verify_key": "known", "owner_url": "owner",
        "admin_url": "admin", "redis_url": "redis",
    }  # fmt: skip


def test_where_postgresql_has_too_little_room_nothing_is_stopped(machine: Machine):
    told = machine.run("--over-live", code=1, NEEDS=str(300 << 20))
    assert "PostgreSQL's disk has 0 MiB free, and the restore needs about 300; make room" in told
    told = machine.run("--over-live", code=1, NEEDS="102401")
    assert "nothing was changed" in told
    told = machine.run("--over-live", code=1, DISK="")
    assert "does not say how much room its disk has" in told
    told = machine.run("--over-live", code=1, FAILS="rul backup needs", ENDS="1")
    assert "nobody knows how much room it needs" in told
    assert not [call for call in machine.calls if "compose stop" in call]


def test_what_compose_does_not_stop_is_ended_too(machine: Machine):
    (machine.folder / "runs").write_text("run1\nrun2\n")
    (machine.folder / "people").write_text("one\n")
    machine.run("--over-live")
    stopped = machine.calls.index("compose stop api nginx")
    ended = machine.calls.index("stop --time 30 run1 run2 one")
    assert stopped < ended < machine.calls.index(restore_of(machine))
    people = "label=com.docker.compose.project=rul --filter label=com.docker.compose.oneoff=True"
    assert f"ps --quiet --filter {people}" in machine.calls


def test_while_a_run_does_not_end_nothing_is_restored(machine: Machine):
    (machine.folder / "runs").write_text("run1\n")
    told = machine.run("--over-live", code=1, STUBBORN="yes")
    assert "these containers do not end: run1 ; end them (docker rm --force)" in told
    assert not [call for call in machine.calls if "rul backup restore" in call]


@pytest.mark.parametrize("volume", LIVED_IN[:3])
def test_over_what_lives_nothing_is_restored_unless_that_is_said(machine: Machine, volume: str):
    machine.empty()
    (machine.folder / "volumes" / volume).touch()
    told = machine.run(code=1)
    assert f"the volume {volume} is there, so what lives here would be exchanged" in told
    assert "add --over-live if that is meant; nothing was changed" in told
    assert {call.split()[0] for call in machine.calls} <= {"image", "compose", "volume"}
    assert {call for call in machine.calls if call.startswith("compose")} == {
        "compose config --format json"
    }
    assert [path.name for path in (machine.folder / "volumes").iterdir()] == [volume]


def test_on_a_new_machine_nothing_need_be_said_also_where_it_broke_off(machine: Machine):
    machine.empty()
    machine.run("run.tar", code=1, LIVED="", FAILS="rul backup restore ", ENDS="1")
    for volume in LIVED_IN:
        (machine.folder / "volumes" / volume).touch()
    machine.run("run.tar", code=1, LIVED="", FAILS="restore-stack", ENDS="1")
    machine.run("run.tar", LIVED="")
    assert "add --over-live" in machine.run("run.tar", code=1)


@pytest.mark.parametrize("source", [["run.tar"], ["--off-site"], []])
def test_one_that_was_interrupted_is_known_by_its_data_where_room_is_asked_for(
    machine: Machine, source: list[str]
):
    machine.run("--over-live", *source, STACK_BACKUP_OFFSITE="s3://bucket/plant")
    (needs,) = [call for call in machine.calls if "rul backup needs" in call]
    assert "--volume rul_training_data:/data:ro" in needs
    machine.empty()
    machine.forget_calls()
    machine.run("run.tar", LIVED="")
    (needs,) = [call for call in machine.calls if "rul backup needs" in call]
    assert ":/data:ro" not in needs  # none is made for that


def test_a_new_machine_that_somebody_started_before_the_restore_ended_is_lived_in(
    machine: Machine,
):
    machine.empty()
    machine.run("run.tar", code=1, LIVED="", FAILS="rul backup restore ", ENDS="1")
    machine.forget_calls()
    assert "Dagster has runs here, so what lives here would be" in machine.run("run.tar", code=1)
    assert not [call for call in machine.calls if "stop" in call]


def test_one_that_was_killed_once_the_last_thing_was_back_has_nothing_left_to_do(
    machine: Machine,
):
    machine.empty()
    machine.run("run.tar", code=1, LIVED="", FAILS="restore-stack --into", ENDS="1")
    for volume in LIVED_IN:
        (machine.folder / "volumes" / volume).touch()
    assert "add --over-live" in machine.run("run.tar", code=1)  # somebody started it before
    machine.run("run.tar", code=1, LIVED="", FAILS="restore-stack --dagster", ENDS="1")
    machine.forget_calls()
    assert "is done" in machine.run("run.tar")
    assert not [call for call in machine.calls if "rul backup restore" in call or "stop" in call]
    assert "add --over-live" in machine.run("run.tar", code=1)


def test_an_archive_and_what_is_in_the_safe_suffice_on_a_new_machine(machine: Machine):
    machine.empty()
    (machine.folder / "secrets/backup_identity").unlink()
    (machine.folder / "secrets/backup_verify_key").unlink()
    machine.run(
        "run.tar", "--identity", "safe/escrow", "--verify-key", "safe/key", "--despite-golden",
        THERE="", LIVED="",
    )  # fmt: skip
    assert "compose run --rm -T migrate" in machine.calls
    run = restore_of(machine)
    assert f'--mount type=bind,"source={machine.folder}/run.tar",target=/restore/archive.tar' in run
    assert run.endswith(
        f"--over-live --despite-golden --run {RUN} --identity /tmp/keys/given_identity "
        "--verify-key /tmp/keys/given_verify_key --store /restore/archive.tar"
    )
    for call in ("rul backup which", "rul backup restore --over-live", "restore-stack --into"):
        assert machine.piped(call)["given_identity"] == "escrow"
        assert machine.piped(call)["given_verify_key"] == "public"


@pytest.mark.parametrize("name", ["noon:12,30.tar", "backup of may"])
def test_an_archive_may_have_any_name(machine: Machine, name: str):
    (machine.folder / "run.tar").rename(machine.folder / name)
    machine.run("--over-live", name)
    run = restore_of(machine)
    assert f'"source={machine.folder}/{name}",target=/restore/archive.tar,readonly' in run
    assert run.endswith(f"--run {RUN} --store /restore/archive.tar")


def test_an_archive_that_the_container_cannot_read_or_open_is_found_before_anything_is_stopped(
    machine: Machine,
):
    told = machine.run("--over-live", "run.tar", code=1, FAILS="--entrypoint test", ENDS="1")
    assert "user 10002:10000 in a container cannot read run.tar; it is encrypted, so" in told
    told = machine.run("--over-live", "run.tar", code=1, FAILS="backup which", ENDS="1")
    assert "run.tar cannot be restored: why is above; nothing was changed" in told
    assert {call.split()[0] for call in machine.calls} == {"image", "compose", "run"}
    assert "compose up" not in " ".join(machine.calls)


def test_what_lies_beyond_is_fetched_first_by_a_container_that_reaches_nothing_else(
    machine: Machine,
):
    (machine.folder / ".env").write_text("STACK_BACKUP_OFFSITE=s3://bucket/plant\n")
    machine.run("--over-live", "--off-site", "7", "--verify-key", "safe/key")
    fetch, restore = machine.call("rul backup export"), restore_of(machine)
    assert "--network rul_egress --env RUL_BACKUP_OFFSITE=s3://bucket/plant " in fetch
    fetched = fetch.partition(" --to ")[2].partition(" ")[0]
    assert re.fullmatch(r"/backups/\.from-beyond-\d+\.tar", fetched)
    assert fetch.endswith(f"--to {fetched} --run 7 --verify-key /tmp/keys/given_verify_key")
    assert not {"--volume rul_training_data:/data", "_URL_FILE"} & {*fetch.split()}
    # It is told nothing that opens backups or reaches PostgreSQL.
    assert machine.piped("rul backup export") == {
        "given_verify_key": "public", "offsite_options": "{}",
    }  # fmt: skip
    assert "offsite_options" not in machine.piped("rul backup restore --over-live")
    assert "--network rul_backend" in restore
    assert "OFFSITE" not in restore
    assert restore.endswith(
        f"--run {RUN} --verify-key /tmp/keys/given_verify_key --store {fetched}"
    )
    calls = machine.calls
    assert calls.index(fetch) < calls.index("compose stop api nginx") < calls.index(restore)
    # It does not stay.
    assert calls.index(restore) < calls.index(machine.call("rul-backup:dev -c rm -f /backups/"))


def test_what_cannot_be_fetched_stops_nothing(machine: Machine):
    beyond = {"STACK_BACKUP_OFFSITE": "s3://bucket/plant", "FAILS": "export", "ENDS": "1"}
    told = machine.run("--over-live", "--off-site", code=1, **beyond)
    assert "it cannot be fetched: why is above; nothing was changed" in told
    assert not [call for call in machine.calls if "stop" in call]


def test_what_was_fetched_and_cannot_be_removed_is_named(machine: Machine):
    beyond = {"STACK_BACKUP_OFFSITE": "s3://b/p", "FAILS": "rul-backup:dev -c rm -f", "ENDS": "1"}
    told = machine.run("--over-live", "--off-site", code=0, **beyond)
    assert re.search(r"/backups/\.from-beyond-\d+\.tar stays in rul_backups; remove it", told)


def test_a_moment_is_recovered_where_there_is_room_and_its_log_is_fetched(machine: Machine):
    beyond = {"STACK_BACKUP_OFFSITE": "s3://bucket/plant"}
    machine.run("--over-live", "--to", "latest", "--off-site", code=0, **beyond)
    assert machine.call("rul backup export").endswith(".tar --with-log")
    restore = restore_of(machine)
    assert "--volume rul_drill_scratch:/scratch " in restore
    assert f"--over-live --to latest --run {RUN} --store /backups/.from-beyond" in restore
    told = machine.run("--forget", "--to", "latest", code=1)
    assert "--forget takes no archive, manifest, store, moment or --over-live" in told
    assert "--to needs a moment, or latest" in machine.run("--to", code=1)


def test_of_a_moment_the_newest_run_before_it_is_fetched(machine: Machine):
    beyond, moment = {"STACK_BACKUP_OFFSITE": "s3://bucket/plant"}, "2026-11-29T08:30:00Z"
    machine.run("--over-live", "--to", moment, "--off-site", code=0, **beyond)
    assert machine.call("rul backup export").endswith(f"--with-log --before {moment}")
    assert f"rul backup which --to {moment} --store" in machine.call("rul backup which")
    machine.forget_calls()
    machine.run("--over-live", "--to", moment, "--off-site", "7", code=0, **beyond)
    assert machine.call("rul backup export").endswith("--run 7 --with-log")


def test_a_manifest_is_named_as_a_run(machine: Machine):
    machine.run("--over-live", "manifests/00000007")
    assert machine.call("backup which").endswith("backup which --run manifests/00000007")
    assert restore_of(machine).endswith(f"--over-live --run {RUN}")


def test_a_run_that_is_not_there_stops_nothing(machine: Machine):
    told = machine.run("--over-live", "7", code=1, FAILS="backup which", ENDS="1")
    assert "there is no such run to restore: why is above; name a run or an archive" in told
    assert not [call for call in machine.calls if "stop" in call]


def test_to_forget_stops_nothing(machine: Machine):
    machine.run("--forget")
    assert not [call for call in machine.calls if "stop" in call or " create " in call]
    assert machine.calls[-1].endswith("rul backup restore --forget")


def test_what_does_not_end_well_is_told(machine: Machine):
    told = machine.run("--over-live", code=1, FAILS="rul backup restore ", ENDS="1")
    assert "it did not end well" in told


@pytest.mark.parametrize(
    ("missing", "told"),
    [
        ("postgres redis", "PostgreSQL or Redis does not start: why is above"),
        ("wal-bringer", "the stack's networks and volumes cannot be made: why is above"),
        ("api nginx", "the services do not stop: why is above; nothing was restored"),
    ],
)
def test_what_of_the_stack_is_not_as_it_must_be_is_told_and_nothing_restored(
    machine: Machine, missing: str, told: str
):
    assert told in machine.run("--over-live", code=1, MISSING=missing)
    assert not [call for call in machine.calls if "rul backup restore" in call]


def test_a_database_that_cannot_be_made_is_told(machine: Machine):
    told = machine.run("--over-live", code=1, THERE="", MIGRATE="1")
    assert "the database cannot be made: why is above" in told


def test_names_are_those_that_compose_understood(machine: Machine):
    (machine.folder / "secrets").rename(machine.folder / "its $&secrets")
    (machine.folder / ".env").write_text(
        "STACK_SECRETS='its $&secrets' # not here\n"
        'STACK_BACKUP_IMAGE="mirror/rul-backup:3"\n'
        "COMPOSE_PROJECT_NAME=plant\n"
    )
    machine.run("run.tar", LIVED="", UNPACKED="prometheus\n")
    run = restore_of(machine)
    for wanted in (
        "--network plant_backend ", "--volume plant_training_data:/data ", " mirror/rul-backup:3 ",
        "--volume plant_backups:/backups ",
    ):  # fmt: skip
        assert wanted in run
    assert machine.piped("rul backup restore --over-live")["owner_url"] == "owner"
    assert "ps --quiet --filter label=rul.stack=plant" in machine.calls
    assert machine.call(":/volume ").count("plant_prometheus_data:/volume ") == 1
    assert machine.calls[-1] == "volume rm --force plant_restoring"


def test_what_it_asks_of_compose_is_in_compose_yaml():
    known = yaml.safe_load((PROJECT / "compose.yaml").read_text())
    asked = re.findall(r"\(told ([\w.-]+)\)", SCRIPT.read_text())
    assert len(asked) > 10
    for keys in asked:
        *folder, _ = keys.split(".")
        at = known
        for key in folder:
            assert key in at, keys
            at = at[key]
    assert {"image", "user"} <= {*known["services"]["wal-bringer"]}


def test_a_composition_that_cannot_be_read_is_told(machine: Machine):
    told = machine.run(code=1, BROKEN="yes")
    assert "compose.yaml or .env cannot be read: why is above" in told


@pytest.fixture
def somebody(machine: Machine) -> int:
    """A user to whom secrets are closed."""
    if os.geteuid():
        return os.geteuid()
    folder = machine.folder
    while folder != folder.parent:
        folder.chmod(folder.stat().st_mode | 0o711)
        folder = folder.parent
    for name in ("", "tmp"):
        (machine.folder / name).chmod(0o777)
    return 65534


@pytest.mark.parametrize(
    ("closed", "told"),
    [
        ("secrets/restore_redis_url", "restore_redis_url is not for user"),
        ("secrets", "migrator_database_url is not for user"),
    ],
)
def test_whom_secrets_are_closed_to_is_told_to_be_root_and_not_to_make_them(
    machine: Machine, somebody: int, closed: str, told: str
):
    (machine.folder / closed).chmod(0)
    said = machine._replace(user=somebody).run(code=1)
    (machine.folder / closed).chmod(0o700)
    assert f"{told} {somebody} to read; run this as root (sudo)" in said
    assert "rul secrets init" not in said


NEW = {"LIVED": "", "UNPACKED": "configuration\ndagster.dump\ndagster_logs\nprometheus\n"}


def test_where_nobody_has_lived_what_the_stack_had_comes_back_dagster_s_database_last(
    machine: Machine,
):
    machine.empty()
    assert "start the rest: make up" in machine.run("run.tar", code=0, **NEW)
    after = machine.calls[machine.calls.index(restore_of(machine)) + 1 :]
    archive = f'"source={machine.folder}/run.tar",target=/restore/archive.tar,readonly'
    for wanted, call in zip(
        (
            lived(),
            "volume rm --force rul_restoring",
            f"volume create --label rul.began=new --label rul.asked={RUN} --label rul.run={RUN}",
            f"rul backup restore-stack --into /restoring/stack --run {RUN} --store /restore/arch",
            "--entrypoint find",
            "compose create --no-build prometheus", "prometheus_data:/volume",
            "compose create --no-build dagster-janitor", "dagster_logs:/volume",
            "--entrypoint tar", "--entrypoint touch",
            f"rul backup restore-stack --dagster --run {RUN} --store /restore/archive.tar",
            "volume rm --force rul_restoring",
        ),
        after,
        strict=True,
    ):  # fmt: skip
        assert wanted in call
        assert archive in call or "rul backup" not in call
    unpacks, puts, last = after[3], after[6], after[11]
    assert "--network none" in unpacks
    assert "--network none --user 65534:65534 --group-add 10000" in puts
    assert "rul_restoring:/restoring:ro" in puts
    assert "RUL_DATABASE_ADMIN_URL_FILE=/tmp/keys/admin_url" in last
    assert {*machine.piped("restore-stack --into")} == {"backup_identity", "backup_verify_key"}
    assert {*machine.piped("restore-stack --dagster")} == {
        "backup_identity", "backup_verify_key", "admin_url",
    }  # fmt: skip
    assert (machine.folder / "restored-configuration.tar").read_text() == "settings"


def test_of_a_run_without_a_stack_nothing_is_put_back(machine: Machine):
    machine.run("--over-live", LIVED="")
    assert not [call for call in machine.calls if ":/volume " in call]
    assert not (machine.folder / "restored-configuration.tar").exists()


@pytest.mark.parametrize(
    ("environment", "told"),
    [
        ({"FAILS": "restore-stack --into", "ENDS": "1"}, "what the stack had is not: why is above"),
        ({"MISSING": "prometheus"}, "prometheus cannot be made: why is above; put its image here"),
        ({"FAILS": ":/volume ", "ENDS": "1"}, "prometheus was not put back: why is above"),
        (
            {"FAILS": "--entrypoint tar", "ENDS": "1"},
            "restored-configuration.tar cannot be written",
        ),
        ({"FAILS": "restore-stack --dagster", "ENDS": "1"}, "Dagster's database was not put back"),
    ],
)
@pytest.mark.parametrize("arguments", [(), ("7",), ("run.tar",), ("--off-site",)])
def test_what_of_the_stack_does_not_come_back_is_told_and_the_same_command_goes_on(
    machine: Machine, arguments: tuple[str, ...], environment: dict[str, str], told: str
):
    beyond = {"STACK_BACKUP_OFFSITE": "s3://bucket/plant"}
    machine.empty()
    assert told in machine.run(*arguments, code=1, **NEW, **environment, **beyond)
    assert "volume rm --force rul_restoring" not in machine.calls[-1]
    machine.forget_calls()
    # Whatever is the newest by now, the run is the same.
    now = {} if "run.tar" in arguments else {"WHICH": "20261129T093000Z-fedcba"}
    told = machine.run(*arguments, code=0, **NEW, **beyond, **now)
    assert f"is restored already, from the run {RUN}: goes on" in told
    assert not [call for call in machine.calls if "--over-live" in call]
    for call in ("restore-stack --into /restoring/stack", "restore-stack --dagster"):
        assert f"{call} --run {RUN}" in machine.call(call)
    if "--off-site" in arguments:
        # What was fetched is there, or that run is fetched again.
        fetch = machine.call("rul backup export")
        assert re.search(r"-c \[ ! -f /backups/\.from-beyond-\d+\.tar \] \|\| exit 0; ", fetch)
        assert fetch.endswith(f"--run {RUN}")


@pytest.mark.parametrize(
    ("arguments", "environment"),
    [
        (("other.tar",), {"WHICH": "20261129T093000Z-fedcba"}),
        (("7",), {}),
        (("run.tar", "--to", "latest"), {}),
        (("--off-site",), {"STACK_BACKUP_OFFSITE": "s3://bucket/plant"}),
        (("--over-live", "run.tar"), {"LIVED": "lived"}),  # the stack has been started since
    ],
)
def test_a_command_goes_on_only_with_its_own_run_where_nobody_has_lived_since(
    machine: Machine, arguments: tuple[str, ...], environment: dict[str, str]
):
    machine.empty()
    (machine.folder / "other.tar").touch()
    machine.run("run.tar", code=1, **NEW, FAILS="restore-stack", ENDS="1")
    machine.forget_calls()
    assert "goes on" not in machine.run(*arguments, code=0, **{**NEW, **environment})
    assert f"--run {environment.get('WHICH', RUN)}" in restore_of(machine)


def test_one_store_beyond_does_not_go_on_with_another_s(machine: Machine):
    machine.empty()
    first = {"STACK_BACKUP_OFFSITE": "s3://bucket/one", "FAILS": "restore-stack", "ENDS": "1"}
    machine.run("--off-site", code=1, **NEW, **first)
    told = machine.run("--off-site", code=0, **NEW, STACK_BACKUP_OFFSITE="s3://bucket/two")
    assert "goes on" not in told


def lived() -> str:
    """The question whether Dagster has a run."""
    return (
        "compose exec -T postgres psql -U postgres -d dagster -Atc SELECT 'lived' FROM runs LIMIT 1"
    )


def restore_of(machine: Machine) -> str:
    """The container that restores the platform."""
    return machine.call("rul backup restore --over-live")


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
        (("a.tar",), {}, "a.tar is no file; give an archive of"),
        (("safe/none",), {}, "safe/none is no file; give an archive of"),
        (
            ("--forget", "--over-live"),
            {},
            "takes no archive, manifest, store, moment or --over-live",
        ),
        (("--identity", "none"), {}, "none is no file; give the file from"),
        ((), {"IMAGE": "1"}, "the image rul-backup:dev is not here; build it"),
        ((), {"STACK_SECRETS": "none"}, "none/migrator_database_url is no file"),
        (
            (),
            {"RESTORE_KEYS": "none"},
            "none/backup_identity is no file; put it there, name the keys' folder",
        ),
        (
            ("--identity", "safe/escrow"),
            {"RESTORE_KEYS": "none"},
            "none/backup_verify_key is no file; put it there, name the keys' folder",
        ),
        (("--off-site",), {}, "STACK_BACKUP_OFFSITE is not set, nor is it in .env"),
        (("--off-site", "run.tar"), {}, "run.tar lies here; leave --off-site away"),
        (("--off-site", "--forget"), {}, "takes no archive, manifest, store, moment"),
        (
            ("--off-site",),
            {"STACK_BACKUP_OFFSITE": "s3://a/b", "RESTORE_OFFSITE_SECRET": "none"},
            "none is no file; write the key of s3://a/b",
        ),
    ],
)
def test_whatever_is_wrong_is_found_before_anything_is_stopped(
    machine: Machine, arguments: tuple[str, ...], environment: dict[str, str], told: str
):
    assert told in machine.run(*arguments, code=1, **environment)
    assert {*machine.calls} <= {"compose config --format json", "image inspect rul-backup:dev"}


def test_elsewhere_than_in_the_project_s_folder_it_does_nothing(machine: Machine):
    (machine.folder / "compose.yaml").unlink()
    assert "run this in the project's folder" in machine.run(code=1)
