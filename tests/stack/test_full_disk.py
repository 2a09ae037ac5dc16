"""A PostgreSQL whose disk is really full: nothing that was acknowledged is lost, and it recovers.

It runs in a container, on a small file system that this machine has in memory; the service runs in
the test.
"""

import subprocess
import time
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa
from litestar.testing import TestClient
from pydantic import SecretStr

from rul_core.errors import Unavailable
from rul_core.simulator import Simulation, simulate, simulated_fleet
from rul_serving.app import create_app
from rul_serving.settings import AccessMode, ServingSettings
from rul_store import fleets
from rul_store.database import begin, connect, migrate

from .engine import NAME, image_of, wait_until

pytestmark = pytest.mark.stack

SIZE = "160m"
TABLE = simulate(Simulation(units=1, running_units=0, sensors=6, mean_life_cycles=40)).table
PATH = "/v1/fleets/pumps/readings"


def run(*command: str) -> str:
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip()


@contextmanager
def small_disk(folder: Path) -> Generator[Path]:
    """A file system of its own, of the user that PostgreSQL's images have."""
    folder.mkdir()
    run(
        "mount", "-t", "tmpfs", "-o", f"size={SIZE},uid=999,gid=999,mode=0700", "tmpfs", str(folder)
    )
    try:
        yield folder
    finally:
        run("umount", "--lazy", str(folder))


@contextmanager
def postgres_on(folder: Path) -> Generator[str]:
    """The address of a new PostgreSQL that keeps its data there, and comes back when it dies."""
    name = f"{NAME}-full-disk"
    subprocess.run(["docker", "rm", "--force", name], check=False, capture_output=True)
    run(
        "docker", "run", "--detach", "--name", name, "--restart=always", "--memory=512m",
        "--publish=127.0.0.1:15432:5432", f"--volume={folder}:/var/lib/postgresql/data",
        "--env=POSTGRES_PASSWORD=test", image_of("postgres"), "postgres",
        "-c", "min_wal_size=32MB", "-c", "max_wal_size=32MB",
    )  # fmt: skip
    try:
        yield "postgresql://postgres:test@127.0.0.1:15432/postgres"
    finally:
        run("docker", "rm", "--force", "--volumes", name)


def fill(file: Path, left: int) -> None:
    """Leave no more room on a disk than so many bytes."""
    block = bytes(2**20)
    with file.open("wb", buffering=0) as out:
        while True:
            try:
                if out.write(block) < len(block):
                    break
            except OSError:
                break
        out.truncate(out.tell() - left)


def bodies(unit: str) -> list[list[dict[str, Any]]]:
    """Readings by the thousand, of one unit."""
    channels = [name for name in TABLE.columns if name.startswith(("setting", "sensor"))]
    values = TABLE.select(channels).row(0, named=True)
    return [
        [{"unit": unit, "cycle": first + n, "values": values} for n in range(1000)]
        for first in range(1, 40_000, 1000)
    ]


def test_a_full_disk_refuses_readings_loses_none_and_is_survived(tmp_path: Path):
    fleet = simulated_fleet(Simulation(sensors=6), "pumps")
    fleets.save(tmp_path, fleet)
    acknowledged = 0
    with small_disk(tmp_path / "disk") as disk, postgres_on(disk) as url:
        engine = connect(url)
        wait_until(lambda: answers(engine), 60, "PostgreSQL answers")
        migrate(engine)
        settings = ServingSettings(
            root=tmp_path, database_url=SecretStr(url), redis_url=None, access=AccessMode.OPEN,
            database_timeout_seconds=5,
        )  # fmt: skip
        with TestClient(create_app(settings)) as client:
            assert client.post(PATH, json=bodies("first")[0]).json()["new"] == 1000
            fill(disk / "filler", left=2**22)
            refused = None
            for body in bodies("second"):
                answer = client.post(PATH, json=body)
                if answer.status_code != 200:
                    refused = answer
                    break
                acknowledged += answer.json()["new"]
            assert acknowledged > 0
            assert refused is not None, f"{acknowledged} readings found room"
            assert refused.status_code == 503
            assert refused.json()["type"] == "/problems/unavailable"
            assert refused.headers["retry-after"]
            assert client.get("/livez").status_code == 200
            (disk / "filler").unlink()
            began = time.monotonic()
            again = wait_until(
                lambda: (a := client.post(PATH, json=body)).status_code == 200 and a,
                90, "readings are taken again",
            ).json()  # fmt: skip
            print(f"  refused: {refused.json()['detail'][:90]}; {acknowledged} were acknowledged")
            print(f"  taken again {time.monotonic() - began:.0f} s after there was room")
        with begin(engine) as connection:
            query = "SELECT unit, count(*) FROM readings GROUP BY unit ORDER BY unit"
            kept = dict(connection.execute(sa.text(query)).all())
        engine.dispose()
    # What was refused is kept once: now, or then.
    assert again["new"] + again["repeated"] == 1000
    assert kept == {"first": 1000, "second": acknowledged + 1000}


def answers(engine: sa.Engine) -> bool:
    try:
        with begin(engine) as connection:
            return connection.execute(sa.text("SELECT true")).scalar_one()
    except Unavailable:
        return False
