"""Secrets of the stack: made once, for one user each, and what is wrong with them told."""

import base64
import hashlib
import json
import os
import re
import stat
from io import BytesIO
from pathlib import Path

import pytest
from typer.testing import CliRunner

from rul_backup import keys as backup_keys
from rul_backup.sealing import seal, unseal
from rul_cli import secrets, stack_secrets
from rul_cli.main import app
from rul_core.errors import SettingsError

NAMES = {file.name for file in stack_secrets.FILES}
run = CliRunner().invoke


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    made = tmp_path / "secrets"
    stack_secrets.make_missing(made)
    return made


def read(folder: Path) -> dict[str, str]:
    return {path.name: path.read_text() for path in folder.iterdir()}


def test_every_secret_is_made_for_its_maker_alone_and_none_is_another_s(folder):
    assert {*read(folder)} == NAMES
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700
    assert {stat.S_IMODE(path.stat().st_mode) for path in folder.iterdir()} == {0o400}
    made = [file for file in stack_secrets.FILES if isinstance(file, stack_secrets.Made)]
    values = [file.value(read(folder)[file.name]) for file in made]
    assert len(set(values)) == len(made)
    assert min(map(len, values)) >= 43


def test_what_is_there_is_never_written_over(folder):
    before = read(folder)
    assert stack_secrets.make_missing(folder) == []
    (folder / "grafana_admin_password").unlink()
    assert stack_secrets.make_missing(folder) == ["grafana_admin_password"]
    after = read(folder)
    assert after.pop("grafana_admin_password") != before.pop("grafana_admin_password")
    assert after == before


def test_a_list_of_passwords_that_is_missing_is_made_of_those_that_are_there(folder):
    before = read(folder)
    (folder / "database_roles").unlink()
    assert stack_secrets.make_missing(folder) == ["database_roles"]
    assert read(folder)["database_roles"] == before["database_roles"]


def test_a_lost_secret_that_others_follow_from_is_not_made_anew_by_itself(folder):
    (folder / "serving_redis_url").unlink()
    (folder / "grafana_admin_password").unlink()
    with pytest.raises(SettingsError, match="serving_redis_url is missing, and redis_users"):
        stack_secrets.make_missing(folder)
    assert not (folder / "grafana_admin_password").exists(), "all or nothing"
    (folder / "redis_users").unlink()
    assert set(stack_secrets.make_missing(folder)) == {
        "serving_redis_url", "grafana_admin_password", "redis_users",
    }  # fmt: skip


def test_a_secret_of_another_form_is_told_with_the_remedy(folder):
    (folder / "database_roles").unlink()
    (folder / "dagster_pgpass").chmod(0o600)
    (folder / "dagster_pgpass").write_text("hunter2")
    with pytest.raises(SettingsError, match="dagster_pgpass does not begin with") as told:
        stack_secrets.make_missing(folder)
    assert "hunter2" not in str(told.value)


def test_the_roles_are_those_that_the_addresses_name(folder):
    found = read(folder)
    roles = json.loads(found["database_roles"])
    assert set(roles) == set(stack_secrets.ROLES)
    for name, role in (
        ("migrator_database_url", "rul_migrator"),
        ("serving_database_url", "rul_serving"),
        ("assets_database_url", "rul_assets"),
        ("operator_database_url", "rul_operator"),
        ("backup_database_url", "rul_backup"),
        ("drill_database_url", "rul_drill"),
    ):
        assert found[name] == f"postgresql://{role}:{roles[role]}@postgres:5432/rul"
    dagster = f"postgresql://rul_backup:{roles['rul_backup']}@postgres:5432/dagster"
    assert found["backup_dagster_url"] == dagster
    assert found["dagster_pgpass"] == f"postgres:5432:dagster:dagster:{roles['dagster']}"


def test_redis_has_hashes_and_lets_nobody_in_without_a_name(folder):
    found = read(folder)
    users = found["redis_users"]
    password = found["assets_redis_url"].removeprefix("redis://assets:").partition("@")[0]
    assert "user default off" in users.splitlines()
    assert f"user assets on #{hashlib.sha256(password.encode()).hexdigest()} " in users
    assert password not in users


def test_either_identity_alone_opens_what_is_made_for_the_recipients(folder, tmp_path):
    for name in ("backup_identity", "backup_escrow_identity"):
        sealed, opened = BytesIO(), BytesIO()
        seal(BytesIO(b"kept"), sealed, backup_keys.recipients(folder / "backup_recipients"))
        sealed.seek(0)
        unseal(sealed, opened, backup_keys.identities(folder / name))
        assert opened.getvalue() == b"kept"
    told = b"told"
    signed = backup_keys.signing_key(folder / "backup_signing_key").sign(told)
    for key in backup_keys.verify_keys(folder / "backup_verify_key"):
        key.verify(signed, told)  # raises where it does not fit
    assert re.fullmatch(r"rul-[0-9a-f]{8}\n", read(folder)["backup_system"])


def test_on_a_new_machine_the_keys_of_the_backups_that_were_saved_stay(folder, tmp_path):
    saved = {
        name: text
        for name, text in read(folder).items()
        if name
        in {
            "backup_identity", "backup_escrow_identity", "backup_recipients", "backup_signing_key",
            "backup_verify_key", "backup_system", "drill_offsite_options",
        }
    }  # fmt: skip
    new = tmp_path / "new"
    new.mkdir()
    for name, text in saved.items():
        (new / name).write_text(text)
    assert set(stack_secrets.make_missing(new)) == NAMES - saved.keys()
    found = read(new)
    assert {name: found[name] for name in saved} == saved
    assert found["postgres_superuser"] != read(folder)["postgres_superuser"]


def test_what_belongs_into_a_safe_may_be_there_and_is_not_made_anew(folder, tmp_path, monkeypatch):
    monkeypatch.setattr(secrets, "_give_away", lambda *_: None)
    (folder / "backup_escrow_identity").rename(tmp_path / "safe")
    before = read(folder)
    assert stack_secrets.make_missing(folder) == []
    assert read(folder) == before
    told = run(app, ["secrets", "init", "--to", str(folder)])
    assert f"All {len(NAMES) - 1} secrets are in" in told.output
    assert "escrow" not in "\n".join(stack_secrets.complaints(folder, os.getuid()))
    # Both identities are replaced together.
    for name in ("backup_identity", "backup_recipients"):
        (folder / name).unlink()
    assert "backup_escrow_identity is missing" in "\n".join(stack_secrets.complaints(folder, 0))
    assert set(stack_secrets.make_missing(folder)) == {
        "backup_identity", "backup_escrow_identity", "backup_recipients",
    }  # fmt: skip


def test_recipients_that_are_lost_are_made_of_the_identities(folder):
    before = read(folder)
    for name in ("backup_recipients", "backup_verify_key", "backup_system"):
        (folder / name).unlink()
    stack_secrets.make_missing(folder)
    assert read(folder) == before


def test_nginx_has_salted_hashes_that_fit_the_passwords(folder):
    found = read(folder)
    users = dict(line.split(":", 1) for line in found["dagster_viewers"].splitlines())
    assert set(users) == {"operator", "viewer"}
    assert set(found["dagster_operators"].split(":")[0:1]) == {"operator"}
    for name, hashed in users.items():
        decoded = base64.b64decode(hashed.removeprefix("{SSHA}"))
        password = found[f"dagster_{name}_password"]
        assert hashlib.sha1(password.encode() + decoded[20:]).digest() == decoded[:20]  # noqa: S324


def test_good_secrets_give_no_complaint_and_each_fault_has_its_remedy(folder):
    caller = os.getuid()
    for name, owner in stack_secrets.owners(caller).items():
        if caller == 0:
            os.chown(folder / name, owner, -1)
    if caller == 0:
        assert stack_secrets.complaints(folder, caller) == []
    (folder / "dagster_pgpass").chmod(0o444)
    (folder / "redis_users").unlink()
    (folder / "grafana_admin_password").chmod(0o600)
    (folder / "grafana_admin_password").write_text("")
    (folder / "dagster_viewer_password").chmod(0o400)
    told = "\n".join(stack_secrets.complaints(folder, caller))
    assert "dagster_pgpass can be read by others (mode 0444); run `chmod 0400" in told
    assert "redis_users is missing; run `rul secrets init`" in told
    assert "grafana_admin_password is empty or no file" in told
    assert "dagster_viewer_password" not in told
    assert "belongs to user" in "\n".join(stack_secrets.complaints(folder, caller + 1))


def test_the_command_tells_what_it_made_and_never_a_secret(tmp_path, monkeypatch):
    given: list[dict[str, int]] = []
    monkeypatch.setattr(secrets, "_give_away", lambda _, wanted, __: given.append(wanted))
    to = tmp_path / "secrets"
    told = run(app, ["secrets", "init", "--to", str(to)])
    assert told.exit_code == 0, told.output
    for content in read(to).values():
        assert content.strip() not in told.output
    again = run(app, ["secrets", "init", "--to", str(to)])
    assert "are in" in again.output
    checked = run(app, ["secrets", "check", "--to", str(to)])
    assert (checked.exit_code == 0) == (os.getuid() == 0)


def test_another_user_than_root_gives_the_secrets_away_by_a_container_that_may_only_do_that(
    folder, tmp_path, monkeypatch
):
    log = tmp_path / "log"
    program = tmp_path / "docker"
    program.write_text(f'#!/bin/sh\nprintf "%s\\n" "$@" > {log}\n')
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    secrets._give_away(folder, {"redis_users": 999}, "image:1")
    arguments = log.read_text().splitlines()
    for wanted in (
        "--network=none",
        "--cap-drop=ALL",
        "--read-only",
        f"--volume={folder}:/secrets",
    ):
        assert wanted in arguments
    assert [a for a in arguments if a.startswith("--cap-add")] == [
        "--cap-add=CHOWN", "--cap-add=DAC_READ_SEARCH",
    ]  # fmt: skip
    assert arguments[-2:] == ["redis_users", "999"]
    program.write_text("#!/bin/sh\necho no such image >&2; exit 1\n")
    with pytest.raises(SettingsError, match=r"no such image; see that the image image:1 is built"):
        secrets._give_away(folder, {"redis_users": 999}, "image:1")
    monkeypatch.setenv("PATH", str(tmp_path / "nowhere"))
    with pytest.raises(SettingsError, match="there is no docker"):
        secrets._give_away(folder, {"redis_users": 999}, "image:1")


def test_the_folder_is_the_one_that_compose_reads_of_its_own_file(tmp_path, monkeypatch):
    monkeypatch.setattr(secrets, "_give_away", lambda *_: None)
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("STACK_SECRETS", raising=False)
    (tmp_path / ".env").write_text("STACK_SECRETS=./elsewhere\n")
    told = run(app, ["secrets", "init"])
    assert told.exit_code == 0, told.output
    assert {path.name for path in (tmp_path / "elsewhere").iterdir()} == NAMES
    assert not (tmp_path / "secrets").exists()
    monkeypatch.setenv("STACK_SECRETS", str(tmp_path / "named"))
    assert run(app, ["secrets", "init"]).exit_code == 0
    assert (tmp_path / "named").exists()
