"""How long it takes to come back: from an S3 store and the keys alone to the first prognosis.

What belongs here: a loss and a return at some size of the data, and its picture. What does not:
what a loss costs (``backups_losses``).

What ``docker/scripts/restore.sh --off-site --to latest`` has containers do, and ``make up`` after
it, is done here by the same commands in the same order, without containers: volumes are folders,
and starting images and the rest of the stack is not in the figure (``tests/stack`` does that).
"""

import asyncio
import json
import re
import shutil
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import sqlalchemy as sa

from benchmarks.backups_stage import Keeping, now, of_database, rul
from benchmarks.serving_load import Address, ask, get, post
from benchmarks.serving_readings import PATH, Machines
from benchmarks.serving_stage import FLEET, Stage
from rul_cli.stack_secrets import ROLES
from rul_store.database import begin
from rul_store.embedded import EmbeddedServers
from rul_store.provisioning import MIGRATOR

SEALED_SECONDS = 5.0
VOLUMES = ("grafana", "prometheus", "dagster_logs")
GOLDEN = "is equal to the last bit"
_STEP = re.compile(r"^ *([\d.]+) s  (.+)$", re.MULTILINE)


def recovery_time(
    stage: Stage, keeping: Keeping, scale: int, share: float, cores: set[int]
) -> dict[str, Any]:
    """Keep so many times the demo's data at a pace, lose all, and come back.

    Raises:
        RuntimeError: A command fails, a champion was not compared, or something is not as it was.
    """
    readings = grow(stage, scale)
    backups, started = keeping.backups_at(share), time.monotonic()
    with keeping.archived(cores, SEALED_SECONDS):
        sealed = backups.make(now())
        made = time.monotonic()
        backups.bring()
        brought = time.monotonic()
        with stage.serving() as (_, address):
            # What comes after the backup is in the log alone.
            row = Machines(stage.learnt, f"after-{scale}", 1).rows(range(1), 40)
            _answer(address, post(PATH, row, key=stage.key))
            before = _prognosis(address, f"after-{scale}-0", stage.key)
        keeping.wait_until_beyond()
    found = _come_back(stage, keeping, f"after-{scale}-0", before)
    return {
        "scale": scale, "readings": readings, "stored_bytes": sealed.stored_bytes,
        "backup_seconds": made - started, "bringing_seconds": brought - made, **found,
    }  # fmt: skip


def _come_back(stage: Stage, keeping: Keeping, unit: str, before: dict[str, Any]) -> dict[str, Any]:
    new = keeping.folder / "new"
    root, fetched, unpacked = new / "root", new / "from-beyond.tar", new / "restoring"
    root.mkdir(parents=True)
    steps: dict[str, float] = {}
    began = time.monotonic()

    def done(what: str) -> None:
        steps[what] = time.monotonic() - began - sum(steps.values())

    with EmbeddedServers(new / "servers") as servers:
        done("PostgreSQL and Redis")
        url = of_database(servers.database_url, "rul", MIGRATOR)
        place = {"RUL_ROOT": str(root), "RUL_DATABASE_URL": url, "RUL_REDIS_URL": servers.redis_url}
        admin = {"RUL_DATABASE_ADMIN_URL": servers.database_url}
        kept = {
            **place,
            **admin,
            "RUL_BACKUP_STORE": str(root / "backups"),
            "RUL_BACKUP_KEYS": keeping.environment["RUL_BACKUP_KEYS"],
        }
        roles = json.dumps(dict.fromkeys(ROLES, "a password"))
        _ran({**place, **admin, "RUL_DATABASE_ROLES": roles}, "database", "migrate")
        done("roles and an empty database")
        names = "RUL_BACKUP_OFFSITE", "RUL_BACKUP_OFFSITE_OPTIONS"
        way = {name: keeping.environment[name] for name in names}
        export = ("backup", "export", "--store", "off-site", "--with-log")
        _ran({**kept, **way}, *export, "--to", fetched)
        done("fetched from S3")
        over = ("backup", "restore", "--over-live", "--to", "latest")
        said = _ran(kept, *over, "--store", fetched)
        done("database by its log, models, champions tried")
        if GOLDEN not in said:
            raise RuntimeError(f"no champion computed a prognosis again: {said}")
        back = ("backup", "restore-stack")
        _ran(kept, *back, "--into", unpacked, "--store", fetched)
        for name in VOLUMES:
            shutil.copytree(unpacked / name, new / "volumes" / name)
        done("the stack's volumes")
        _ran(kept, *back, "--dagster", "--store", fetched)
        done("Dagster's database")
        last_volume_seconds = time.monotonic() - began
        with stage.serving(f"again-{keeping.name}", **place) as (_, address):
            done("the service")
            after = _prognosis(address, unit, stage.key)
            done("first prognosis")
    seconds = time.monotonic() - began
    for what in ("rul_cycles", "cycle"):
        if before[what] != after[what]:
            raise RuntimeError(f"{what} was {before[what]}, and is {after[what]}")
    _compare_volumes(keeping, new / "volumes")
    shutil.rmtree(new)
    return {
        "seconds": seconds, "last_volume_seconds": last_volume_seconds, "steps": steps,
        "restore_steps": {what: float(took) for took, what in _STEP.findall(said)},
    }  # fmt: skip


def _compare_volumes(keeping: Keeping, volumes: Path) -> None:
    source = keeping.settings.backup_stack
    for name in ("prometheus", "dagster_logs"):  # Grafana's comes by SQLite's own backup
        was, now_is = (
            {
                path.relative_to(folder): path.read_bytes()
                for path in folder.rglob("*")
                if path.is_file()
            }
            for folder in (Path(source or "", name), volumes / name)
        )
        if was != now_is:
            raise RuntimeError(f"{name} has {sorted(now_is)}, and had {sorted(was)}")


def draw(times: list[dict[str, Any]], path: Path) -> None:
    """Seconds from nothing to the first prognosis over the demo's data, by step, as SVG."""
    import matplotlib as mpl
    from matplotlib.figure import Figure

    mpl.rcParams["svg.hashsalt"] = "rul"
    figure = Figure(figsize=(8, 3.6), layout="constrained")
    axes = figure.subplots()
    names = [f"{each['scale']}×: {each['readings']:,} readings" for each in times]
    left = [0.0] * len(times)
    for step in times[0]["steps"]:
        seconds = [each["steps"][step] for each in times]
        axes.barh(names, seconds, left=left, label=step)
        left = [before + more for before, more in zip(left, seconds, strict=True)]
    volumes = [each["last_volume_seconds"] for each in times]
    axes.scatter(volumes, names, marker="|", s=500, color="black", label="the last volume is back")
    axes.set(xlabel="seconds from nothing to the first prognosis (900 are allowed)")
    axes.invert_yaxis()
    figure.legend(
        frameon=False, fontsize="small", loc="outside lower center", ncols=3, markerscale=0.4
    )
    axes.spines[["top", "right"]].set_visible(False)
    figure.savefig(path, format="svg", metadata={"Date": None})


def grow(stage: Stage, scale: int) -> int:
    """Let there be so many times the demo's units, as copies of those that were sent.

    Returns:
        How many readings all these units have.
    """
    copy = sa.text(
        "INSERT INTO readings (fleet, unit, life, cycle, time, layout, measured) "
        "SELECT fleet, unit || '-' || copy, life, cycle, time, layout, measured "
        "FROM readings, generate_series(1, :copies) AS copy "
        "WHERE fleet = :fleet AND unit LIKE 'unit-%' AND unit NOT LIKE 'unit-%-%' "
        "ON CONFLICT DO NOTHING"
    )
    count = sa.text("SELECT count(*) FROM readings WHERE fleet = :fleet AND unit LIKE 'unit-%'")
    with begin(stage.engine) as connection:
        connection.execute(copy, {"copies": scale - 1, "fleet": FLEET})
        return connection.execute(count, {"fleet": FLEET}).scalar_one()


def _ran(environment: Mapping[str, str], *arguments: str | Path) -> str:
    """What the command says where it ends well.

    Raises:
        RuntimeError: It does not.
    """
    run = rul(environment, *arguments)
    if run.returncode:
        raise RuntimeError(f"rul {arguments} ended with {run.returncode}: {run.stdout}")
    return run.stdout


def _prognosis(address: Address, unit: str, key: str) -> dict[str, Any]:
    path = f"/v1/fleets/{FLEET}/units/{unit}/prognosis"
    return json.loads(_answer(address, get(path, key=key)))


def _answer(address: Address, request: bytes) -> bytes:
    status, body = asyncio.run(ask(address, request))
    if status != 200:
        raise RuntimeError(f"no answer: {status} {body[:500]!r}")
    return body
