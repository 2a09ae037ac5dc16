"""The secrets of the container stack: which files there are, whose they are, what is in them.

What belongs here: the list of files, making what is missing, seeing that what is there may be used.
What does not: the command (``secrets``), giving the files to containers (``compose.yaml``).

A file is *made* of a new password, *follows* from files that are made, or is *begun* for people to
go on with. Nothing is ever written over: a secret that is lost must be replaced on purpose, for a
server may know the old one.
"""

import base64
import hashlib
import json
import os
import re
import secrets
import stat
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from rul_core.errors import SettingsError

MODE = 0o400
FOLDER_MODE = 0o700

# The users of the containers, as compose.yaml and the images have them.
SERVING, ASSETS, POSTGRES, REDIS, NGINX = 10001, 10002, 999, 999, 101
NOBODY, REDIS_EXPORTER, GRAFANA = 65534, 59000, 472
ROLES = (
    "rul_migrator", "rul_serving", "rul_assets", "rul_operator", "rul_backup", "rul_drill",
    "rul_archiver", "dagster", "postgres_exporter",
)  # fmt: skip
"""Of PostgreSQL; what each may do is set where they are made (``rul_store.provisioning``)."""

_REDIS_RULES = {
    "serving": "~* &* +@all -@admin -@dangerous +info",
    "assets": "~* &* +@all -@admin -@dangerous +info",
    "backup": "-@all +sync",
    "restore": "-@all +sync +scan +unlink +ping ~*",
    "exporter": "-@all +ping +info +config|get +slowlog|len +slowlog|get +latency|latest "
    "+latency|histogram +client|setname",
}


@dataclass(frozen=True)
class Made:
    """A file with one new secret between two fixed texts."""

    name: str
    owner: int | None
    """A user id; none for whoever makes it, since it is for people."""
    before: str = ""
    after: str = ""
    generate: Callable[[], str] = field(default=lambda: secrets.token_urlsafe(32))
    belongs_into_a_safe: bool = False
    """So that it may be away once what follows from it is made."""

    def text(self, value: str) -> str:
        """The file's content."""
        return f"{self.before}{value}{self.after}"

    def value(self, text: str) -> str:
        """The secret in the file's content.

        Raises:
            SettingsError: The content is not of this form.
        """
        inner, after = text.rstrip("\n"), self.after.rstrip("\n")
        if not (inner.startswith(self.before) and inner.endswith(after)):
            raise SettingsError(
                f"the secret file {self.name} does not begin with {self.before!r} and end with "
                f"{self.after!r}; correct it, or remove it and what follows from it"
            )
        return inner[len(self.before) : len(inner) - len(after)]


@dataclass(frozen=True)
class Follows:
    """A file that is computed from secrets, by name of their files."""

    name: str
    owner: int
    of: tuple[str, ...]
    compute: Callable[..., str]


@dataclass(frozen=True)
class Begun:
    """A file that people complete."""

    name: str
    owner: int
    begins_as: str


def _admin_key() -> str:
    from rul_store import keys

    return keys.generate()


def _backup_identity() -> str:
    from rul_backup import keys

    return keys.new_identity().strip()


def _backup_signing_key() -> str:
    from rul_backup import keys

    return keys.new_signing_key().strip()


def _backup_recipients(day: str, escrow: str) -> str:
    from rul_backup import keys

    return keys.recipients_of(day, escrow)


def _backup_verify_key(signing: str) -> str:
    from rul_backup import keys

    return keys.verify_key_of(signing)


def _backup_system(signing: str) -> str:
    """A name that no other platform has."""
    return f"rul-{hashlib.sha256(_backup_verify_key(signing).encode()).hexdigest()[:8]}\n"


def _database_url(role: str) -> str:
    return f"postgresql://{role}:"


def _roles(*passwords: str) -> str:
    return json.dumps(dict(zip(ROLES, passwords, strict=True)), indent=2) + "\n"


def _redis_users(*passwords: str) -> str:
    """Redis' list of users; it holds hashes, and nobody may come in without a name."""
    lines = ["user default off", "user health on nopass -@all +ping"]
    for (user, rules), password in zip(_REDIS_RULES.items(), passwords, strict=True):
        digest = hashlib.sha256(password.encode()).hexdigest()
        lines.append(f"user {user} on #{digest} {rules}")
    return "\n".join(lines) + "\n"


def _htpasswd(*names: str) -> Callable[..., str]:
    def compute(*passwords: str) -> str:
        return "".join(
            f"{name}:{_salted(password)}\n" for name, password in zip(names, passwords, strict=True)
        )

    return compute


def _salted(password: str) -> str:
    # The password has 256 random bits, so that no slow hash is needed to hide it.
    salt = os.urandom(16)
    digest = hashlib.sha1(password.encode() + salt).digest()  # noqa: S324 - what nginx can verify
    return "{SSHA}" + base64.b64encode(digest + salt).decode()


_RUL, _MAINTENANCE = "@postgres:5432/rul", "@postgres:5432/postgres"
RECEIVERS = """\
# Who is told of alerts, in Alertmanager's own words:
# https://prometheus.io/docs/alerting/latest/configuration/#receiver
# Afterwards: docker compose restart alertmanager
receivers:
  - name: critical # somebody is woken
  - name: warning # for the working day
  - name: info # only told
  - name: watchdog # every five minutes, for something that notices when it stops

# For example:
#   - name: critical
#     webhook_configs:
#       - url: https://hooks.example.com/rul
#     email_configs:
#       - to: on-call@example.com
#         from: rul@example.com
#         smarthost: mail.example.com:587
#         auth_username: rul@example.com
#         auth_password: "..."
"""
"""Where nobody is told yet."""

FILES: tuple[Made | Follows | Begun, ...] = (
    Made("postgres_superuser", POSTGRES),
    Made("migrator_database_url", ASSETS, _database_url("rul_migrator"), _RUL),
    Made("serving_database_url", SERVING, _database_url("rul_serving"), _RUL),
    Made("assets_database_url", ASSETS, _database_url("rul_assets"), _RUL),
    Made("operator_database_url", ASSETS, _database_url("rul_operator"), _RUL),
    Made("backup_database_url", ASSETS, _database_url("rul_backup"), _RUL),
    Made("drill_database_url", ASSETS, _database_url("rul_drill"), _RUL),
    Made("backup_replication_url", ASSETS, _database_url("rul_archiver"), _MAINTENANCE),
    Made("dagster_pgpass", ASSETS, "postgres:5432:dagster:dagster:"),
    Made("postgres_exporter_password", NOBODY),
    Made("serving_redis_url", SERVING, "redis://serving:", "@redis:6379/0"),
    Made("assets_redis_url", ASSETS, "redis://assets:", "@redis:6379/0"),
    Made("backup_redis_url", ASSETS, "redis://backup:", "@redis:6379/0"),
    # In no container that stays: docker/scripts/restore.sh hands it over.
    Made("restore_redis_url", None, "redis://restore:", "@redis:6379/0"),
    Made("redis_exporter_password", REDIS_EXPORTER, '{"redis://exporter@redis:6379": "', '"}'),
    Made("admin_api_key", SERVING, generate=_admin_key),
    Made("grafana_admin_password", GRAFANA),
    Begun("alert_receivers", NOBODY, RECEIVERS),
    Made("backup_signing_key", ASSETS, after="\n", generate=_backup_signing_key),
    Made("backup_identity", ASSETS, after="\n", generate=_backup_identity),
    Made(
        "backup_escrow_identity",
        None,
        after="\n",
        generate=_backup_identity,
        belongs_into_a_safe=True,
    ),
    Begun("backup_offsite_options", ASSETS, "{}\n"),
    Begun("drill_offsite_options", ASSETS, "{}\n"),
    Made("dagster_operator_password", None),
    Made("dagster_viewer_password", None),
    Follows(
        "database_admin_url",
        ASSETS,
        ("postgres_superuser",),
        lambda password: f"postgresql://postgres:{password}@postgres:5432/postgres",
    ),
    Follows(
        "database_roles",
        ASSETS,
        (
            "migrator_database_url",
            "serving_database_url",
            "assets_database_url",
            "operator_database_url",
            "backup_database_url",
            "drill_database_url",
            "backup_replication_url",
            "dagster_pgpass",
            "postgres_exporter_password",
        ),
        _roles,
    ),
    Follows(
        "backup_dagster_url",
        ASSETS,
        ("backup_database_url",),
        lambda password: f"{_database_url('rul_backup')}{password}@postgres:5432/dagster",
    ),
    Follows(
        "redis_users",
        REDIS,
        (
            "serving_redis_url",
            "assets_redis_url",
            "backup_redis_url",
            "restore_redis_url",
            "redis_exporter_password",
        ),
        _redis_users,
    ),
    Follows(
        "backup_recipients",
        ASSETS,
        ("backup_identity", "backup_escrow_identity"),
        _backup_recipients,
    ),
    Follows("backup_verify_key", ASSETS, ("backup_signing_key",), _backup_verify_key),
    Follows("backup_system", ASSETS, ("backup_signing_key",), _backup_system),
    Follows("dagster_operators", NGINX, ("dagster_operator_password",), _htpasswd("operator")),
    Follows(
        "dagster_viewers",
        NGINX,
        ("dagster_operator_password", "dagster_viewer_password"),
        _htpasswd("operator", "viewer"),
    ),
)
"""In the order in which they are made."""


def make_missing(folder: Path) -> list[str]:
    """Write every file that is not there; give their names.

    Each is its maker's, with mode 0400; ``owners`` says whose it should become.

    Raises:
        SettingsError: What is there cannot be read or does not fit what would be made; says what to
            remove. Then nothing was written.
    """
    there = _there(folder) | in_a_safe(folder)
    missing = [file for file in FILES if file.name not in there]
    if not missing:
        return []
    _refuse_halves(there)
    made = {file.name: file for file in FILES if isinstance(file, Made)}
    values = {file.name: file.generate() for file in missing if isinstance(file, Made)}
    needed = {name for file in missing if isinstance(file, Follows) for name in file.of}
    for name in sorted(needed - values.keys()):
        values[name] = made[name].value(_read(folder / name))
    folder.mkdir(mode=FOLDER_MODE, parents=True, exist_ok=True)
    folder.chmod(FOLDER_MODE)
    for file in missing:
        _write(folder / file.name, _content(file, values))
    return [file.name for file in missing]


def in_a_safe(folder: Path) -> set[str]:
    """The files that are away, and should be: what follows from them is made."""
    there = _there(folder)
    needed = {
        name
        for file in FILES
        if isinstance(file, Follows) and file.name not in there
        for name in file.of
    }
    return {
        file.name
        for file in FILES
        if isinstance(file, Made) and file.belongs_into_a_safe and file.name not in there | needed
    }


def owners(caller: int) -> dict[str, int]:
    """Each file's user id; those for people are the caller's."""
    return {file.name: caller if file.owner is None else file.owner for file in FILES}


def complaints(folder: Path, caller: int) -> list[str]:
    """What keeps the containers from reading their secrets, or lets others read them."""
    found = []
    away = in_a_safe(folder)
    for name, owner in owners(caller).items():
        if name in away:
            continue
        path = folder / name
        try:
            status = path.stat()
        except FileNotFoundError:
            found.append(f"the secret file {path} is missing; run `rul secrets init`")
            continue
        mode = stat.S_IMODE(status.st_mode)
        if not stat.S_ISREG(status.st_mode) or status.st_size == 0:
            found.append(f"{path} is empty or no file; remove it and run `rul secrets init`")
        elif mode & 0o077:
            found.append(
                f"the secret file {path} can be read by others (mode {mode:04o}); "
                f"run `chmod 0400 {path}`"
            )
        elif status.st_uid != owner:
            found.append(
                f"{path} belongs to user {status.st_uid}, and the container that reads it is user "
                f"{owner}; run `rul secrets init`, which sets the owner"
            )
    return found


def is_anybody_told(folder: Path) -> bool | None:
    """Whether alerts go to anybody; None where this user may not read who is told."""
    try:
        lines = (folder / "alert_receivers").read_text().splitlines()
    except OSError:
        return None
    return any(re.match(r"[^#]*\b[a-z]+_configs\s*:", line) for line in lines)


def _there(folder: Path) -> set[str]:
    return {file.name for file in FILES if (folder / file.name).exists()}


def _refuse_halves(there: set[str]) -> None:
    """A file that follows from one that is lost would not fit the new one."""
    for file in FILES:
        if isinstance(file, Follows) and file.name in there:
            lost = [name for name in file.of if name not in there]
            if lost:
                raise SettingsError(
                    f"the secret file {', '.join(lost)} is missing, and {file.name} was made from "
                    f"it; put it back, or remove {file.name} too and both are made anew"
                )


def _content(file: Made | Follows | Begun, values: Mapping[str, str]) -> str:
    if isinstance(file, Begun):
        return file.begins_as
    if isinstance(file, Made):
        return file.text(values[file.name])
    return file.compute(*(values[name] for name in file.of))


def _read(path: Path) -> str:
    try:
        return path.read_text()
    except PermissionError as error:
        raise SettingsError(
            f"{path} is there, but this user may not read it to make what follows from it; "
            "run the command as root"
        ) from error


def _write(path: Path, text: str) -> None:
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, MODE)
    with os.fdopen(descriptor, "w") as file:
        file.write(text)
