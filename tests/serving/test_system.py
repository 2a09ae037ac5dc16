"""How it stands with backups, over HTTP and as metrics."""

import re
from datetime import UTC, datetime, timedelta

import msgspec
import pytest

from rul_store import backup_rows
from rul_store.backup_rows import BackupRun, RestoreProof
from tests.serving.test_health import NOBODY_LISTENS

BEGUN = datetime(2026, 11, 23, 4, tzinfo=UTC)


def run(number: int) -> BackupRun:
    at = BEGUN + timedelta(minutes=30 * number)
    return BackupRun(
        number=number, run=f"run-{number}", sha256="9b" * 32, started_at=at,
        finished_at=at + timedelta(seconds=7), stored_bytes=1000 * number,
    )  # fmt: skip


def proof(number: int, *differences: str, log_reaches_at: datetime | None = None) -> RestoreProof:
    at = BEGUN + timedelta(days=number)
    return RestoreProof(
        number=number, proven_at=at, seconds=6.0 + number, differences=differences,
        log_reaches_at=log_reaches_at,
    )  # fmt: skip


def test_where_nothing_was_ever_kept_there_is_no_store(platform):
    with platform.client() as client:
        assert client.get("/v1/system/backups").json() == {"stores": []}


def test_of_each_store_the_newest_run_and_the_last_drills_are_told(platform, eventually):
    engine = platform.engine
    backup_rows.record(engine, "local", [run(2), run(1), run(3)])
    backup_rows.record(engine, "off-site", [run(2)])
    for one in (proof(1), proof(2), proof(3, "table x is missing")):
        backup_rows.record_proof(engine, "local", one)
    with platform.client() as client:
        local, off_site = client.get("/v1/system/backups").json()["stores"]
        eventually(lambda: "rul_backup_stored_bytes{" in client.get("/metrics").text)
        told = client.get("/metrics").text
    assert (local["store"], local["newest"]["run"]) == ("local", "run-3")
    assert local["newest"]["started_at"] == "2026-11-23T05:30:00Z"
    assert local["last_drill"]["differences"] == ["table x is missing"]
    assert (local["last_proven"]["number"], local["last_proven"]["differences"]) == (2, [])
    assert (
        local["last_proven"]["recovery_point_seconds"]
        == (timedelta(days=2) - timedelta(minutes=60)).total_seconds()
    )
    assert (off_site["store"], off_site["newest"]["number"]) == ("off-site", 2)
    assert off_site["last_drill"] is off_site["last_proven"] is None
    figures = {
        (name, store): float(value)
        for name, store, value in re.findall(
            r'^rul_backup_(\w+)\{store="([\w-]+)"\} (\S+)$', told, re.MULTILINE
        )
    }
    assert figures == {
        ("newest_timestamp_seconds", "local"): (BEGUN + timedelta(minutes=90)).timestamp(),
        ("newest_timestamp_seconds", "off-site"): (BEGUN + timedelta(minutes=60)).timestamp(),
        ("stored_bytes", "local"): 3000.0,
        ("stored_bytes", "off-site"): 2000.0,
        ("proven_timestamp_seconds", "local"): (BEGUN + timedelta(days=2)).timestamp(),
        ("drill_duration_seconds", "local"): 9.0,
        ("drill_differences", "local"): 1.0,
        ("drill_recovery_point_seconds", "local"): timedelta(days=3, minutes=-90).total_seconds(),
    }


def test_a_run_of_a_release_that_told_less_is_still_told(platform):
    old = BackupRun(number=1, run="run-1", sha256="9b" * 32, finished_at=BEGUN)
    backup_rows.record(platform.engine, "local", [old])
    backup_rows.record_proof(platform.engine, "local", proof(1))
    with platform.client() as client:
        (local,) = client.get("/v1/system/backups").json()["stores"]
    assert local["newest"]["started_at"] is None
    assert local["newest"]["stored_bytes"] is None
    assert local["last_drill"]["recovery_point_seconds"] is None
    assert local["last_drill"]["log_reaches_at"] is None


@pytest.mark.parametrize(
    ("before", "seconds"),
    [
        (timedelta(seconds=40), 40),  # by the log
        (timedelta(minutes=9), 6 * 60),  # of a quiet server: the run kept more
        (-timedelta(seconds=3), 0),  # sealed while the drill was at work
    ],
)
def test_the_recovery_point_of_a_drill_is_by_the_log_where_that_leads_on(
    platform, eventually, before: timedelta, seconds: float
):
    drilled = BEGUN + timedelta(days=1)
    began = drilled - timedelta(minutes=6)
    backup_rows.record(
        platform.engine, "local", [msgspec.structs.replace(run(1), started_at=began)]
    )
    at = drilled - before
    backup_rows.record_proof(platform.engine, "local", proof(1, log_reaches_at=at))
    with platform.client() as client:
        (local,) = client.get("/v1/system/backups").json()["stores"]
        eventually(lambda: "rul_backup_drill_log" in client.get("/metrics").text)
        told = client.get("/metrics").text
    assert local["last_drill"]["recovery_point_seconds"] == seconds
    assert datetime.fromisoformat(local["last_drill"]["log_reaches_at"]) == at
    assert f'drill_recovery_point_seconds{{store="local"}} {seconds:.1f}\n' in told
    (reaches,) = re.findall(r'log_reaches_timestamp_seconds\{store="local"\} (\S+)\n', told)
    assert float(reaches) == at.timestamp()


@pytest.mark.parametrize(("role", "status"), [("viewer", 200), ("ingest", 403)])
def test_who_may_read_may_see_it(platform, role: str, status: int):
    key = platform.key(role)
    with platform.client(access="keys") as client:
        answer = client.get("/v1/system/backups", headers={"X-API-Key": key})
        assert answer.status_code == status
        assert client.get("/v1/system/backups").status_code == 401


def test_without_postgresql_it_is_unavailable(platform):
    with platform.client(database_url=NOBODY_LISTENS) as client:
        assert client.get("/v1/system/backups").status_code == 503
