"""Killed at any moment, no manifest promises what is not there, and nothing needed has gone."""

import hashlib
import json
import random
import subprocess
import sys
import textwrap
from pathlib import Path
from typing import Any

from rul_backup import keys

# Each child is killed at the k-th change that it makes to files under the root, for k = 1, 2, …
# until one lives; what it leaves is looked at, and the next goes on with it.
AT_EVERY_STEP = """
    import io, json, os, random, shutil, signal, sys
    from datetime import UTC, datetime, timedelta
    from pathlib import Path
    from rul_backup import archive, drill, keys, runs, wal
    from rul_backup.archiving import Archiver, _Server
    from rul_backup.manifest import Kind
    from rul_backup.runs import Maker, Run
    from rul_backup.stores import FolderStore
    from rul_backup.verification import Level, verify
    from rul_backup.wal import Segment

    root, held, work = sys.argv[1:]
    kill_at, steps = None, 0

    def count(event, arguments):
        global steps
        if not kill_at or event not in EVENTS or not str(arguments[0]).startswith(root):
            return
        if event != "open" or not str(arguments[1]).startswith("r"):
            steps += 1
            if steps == kill_at:
                os.kill(os.getpid(), signal.SIGKILL)

    EVENTS = {"open", "os.rename", "os.mkdir", "os.remove", "os.rmdir"}
    sys.addaudithook(count)
    START = datetime(2026, 11, 1, tzinfo=UTC)
    folder = Path(held)
    maker = Maker("plant", keys.signing_key(folder / "signing_key"),
                  keys.recipients(folder / "recipients"))
    ours, mine = keys.verify_keys(folder / "verify_key"), keys.identities(folder / "identity")
    store, into = FolderStore(Path(root) / "backups"), Path(root) / "back"
    tar = Path(root) / "out" / "run.tar"

    def make(number):
        at = START + timedelta(minutes=number)
        run, before = Run(store, maker, at), runs.newest(store, ours)
        if kill_at is None:
            keep_base(run, number)
        run.keep("platform.dump", Kind.POSTGRES, io.BytesIO(b"x" * 5000), {})
        if before is None or number % 2:
            run.keep("redis.rdb", Kind.REDIS, io.BytesIO(b"REDIS" * 300), {})
        else:
            (taken,) = before.of_kind(Kind.REDIS).values()
            run.take_over(taken, before)
        run.seal({}, ours, at)

    def keep_base(run, number):
        segment = Segment(1, number, 4096)
        (folder / str(segment)).write_bytes(bytes(4096))
        log = wal.ClusterLog(store, maker, ours, "8", 4096)
        log.take(folder / str(segment), now=run.started_at)
        facts = {"cluster": "8", "segment_bytes": 4096, "ended_at": f"{run.started_at}"}
        facts |= {"start_segment": str(segment), "end_segment": str(segment)}
        run.keep("base.tar", Kind.BASE, io.BytesIO(b"base"), facts)

    def let_go(_):
        for sealed in runs.there(store, ours)[:-2]:
            runs.let_go(store, sealed, maker.signing_key)
        runs.sweep(store, ours, START + timedelta(hours=1))
        wal.sweep(store, ours)

    def restore(_):
        if not into.exists():
            drill.restore_files(store, runs.newest(store, ours), into, mine)

    def export(_):
        if not tar.exists():
            archive.export(store, runs.newest(store, ours), ours, tar)

    def in_the_archive():
        found = archive.Archive(tar)
        return not verify(found, ours, Level.CONTENT, now=START + timedelta(hours=20),
                          identities=mine, only=found.run).findings

    spool = Path(root) / "spool"

    def receive(_):
        archiver = Archiver(store, maker, ours, "postgresql:///", spool)
        archiver._server = _Server("7", 4096, 16)
        archiver._seal()

    def write_segment(number):
        spool.joinpath("7").mkdir(parents=True, exist_ok=True)
        content = random.Random(number).randbytes(4096)
        (spool / "7" / str(Segment(1, number, 4096))).write_bytes(content)

    if work != "make":
        for number in range(8):
            make(number)
    for step in range(1, 1000):
        if work == "receive":
            write_segment(step)
        child = os.fork()
        if child == 0:
            kill_at = step
            globals()[work](100 + step)
            os._exit(0)
        killed = os.waitpid(child, 0)[1] != 0
        now = START + timedelta(hours=20)
        found = verify(store, ours, Level.CONTENT, now=now, identities=mine)
        print(json.dumps({
            "killed": killed,
            "findings": [list(each) for each in found.findings],
            "runs": [sealed.manifest.number for sealed in runs.there(store, ours)],
            "back": (into / "redis.rdb").read_bytes().decode()[:5] if into.exists() else None,
            "archive": in_the_archive() if tar.exists() else None,
            "sealed": [noted.note.sums.plain_sha256 for noted in wal.following(store, ours, "7")],
            "spool": sorted(path.name for path in spool.rglob("0*")),
            "left": len(runs.left_behind(store, ours, now)) + len(wal.left_behind(store, ours)),
            "log": len(wal.names(store, "8")),
        }), flush=True)
        if not killed:
            break
    runs.sweep(store, ours, START + timedelta(hours=48))
    found = verify(store, ours, Level.CONTENT, now=START + timedelta(hours=48), identities=mine)
    print(json.dumps({"findings": [list(each) for each in found.findings]}))
"""


def seen(tmp_path: Path, work: str) -> list[dict[str, Any]]:
    """What was there after each kill, and at last after a clearing away."""
    held, root = tmp_path / "held", tmp_path / "root"
    held.mkdir()
    root.mkdir()
    for name, text in keys.make()._asdict().items():
        (held / name).write_text(text)
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(AT_EVERY_STEP), root, held, work],
        capture_output=True, text=True, check=False, timeout=120,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    *states, last = [json.loads(line) for line in done.stdout.splitlines()]
    assert [state["killed"] for state in states] == [True] * (len(states) - 1) + [False]
    assert [state["findings"] for state in states] == [[]] * len(states)
    assert last["findings"] == []
    return states


def test_a_run_that_is_killed_at_any_step_promises_nothing_or_all(tmp_path: Path):
    states = seen(tmp_path, "make")
    assert len(states) > 8
    counts = [len(state["runs"]) for state in states]
    assert all(
        after - before in (0, 1) for before, after in zip([0, *counts], counts, strict=False)
    )
    assert 0 < counts[-1] < len(states)


def test_letting_go_that_is_killed_at_any_step_takes_nothing_that_is_needed(tmp_path: Path):
    states = seen(tmp_path, "let_go")
    assert len(states) > 8
    assert all(set(state["runs"]) >= {7, 8} for state in states)
    assert states[-1]["runs"] == [7, 8]
    assert states[-1]["left"] == 0
    # Of the log too, at every step all that the bases of runs that stay need.
    assert all(state["log"] >= len(state["runs"]) for state in states)
    assert states[-1]["log"] == 2


def test_files_that_are_restored_are_there_as_a_whole_or_not_at_all(tmp_path: Path):
    states = seen(tmp_path, "restore")
    assert len(states) > 5
    told = [state["back"] for state in states]
    assert set(told) == {None, "REDIS"}
    assert told == sorted(told, key=bool)  # once it is there it stays


def test_an_archive_is_there_as_a_whole_or_not_at_all(tmp_path: Path):
    states = seen(tmp_path, "export")
    assert len(states) > 3
    told = [state["archive"] for state in states]
    assert set(told) == {None, True}
    assert told == sorted(told, key=bool)


def test_an_archiver_that_is_killed_at_any_step_loses_and_repeats_no_segment(tmp_path: Path):
    states = seen(tmp_path, "receive")
    assert len(states) > 8
    for step, state in enumerate(states, 1):
        expected = [
            hashlib.sha256(random.Random(number).randbytes(4096)).hexdigest()
            for number in range(1, step + 1)
        ]
        sealed = state["sealed"]
        assert sealed == expected[: len(sealed)]
        names = [f"{1:08X}{0:08X}{number:08X}" for number in range(len(sealed) + 1, step + 1)]
        assert set(names) <= set(state["spool"])  # what is not sealed is in the spool
    assert len(states[-1]["sealed"]) == len(states)
    assert states[-1]["spool"] == [f"{1:08X}{0:08X}{len(states):08X}"]
