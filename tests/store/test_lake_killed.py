"""A run killed at any moment leaves the old table or the new one."""

import json
import random
import subprocess
import sys
import textwrap
import time
from pathlib import Path

import pytest

from rul_store.lake import Lake

# Each child is killed at the k-th thing it does to a file under the root, for k = 1, 2, … until one
# lives. Fork, since a new interpreter each time would take minutes; no Polars thread runs before.
AT_EVERY_STEP = """
    import json, os, signal, sys
    from pathlib import Path
    import polars as pl
    from rul_store.lake import Lake

    root, method = sys.argv[1:]
    kill_at, steps = None, 0

    def count(event, arguments):
        global steps
        if kill_at and event in EVENTS and str(arguments[0]).startswith(root):
            steps += 1
            if steps == kill_at:
                os.kill(os.getpid(), signal.SIGKILL)

    EVENTS = {"open", "os.rename", "os.mkdir", "os.remove", "os.rmdir", "os.scandir"}
    sys.addaudithook(count)
    lake = Lake(Path(root))
    for step in range(1, 200):
        child = os.fork()
        if child == 0:
            kill_at = step
            shards = [pl.DataFrame({"x": [step] * 3}), pl.DataFrame({"x": [step] * 2})]
            options = {}
            if method == "write":
                beside = {"beside": pl.DataFrame({"x": [step]})}
                options = {"keep": 0, "beside": lambda: beside}
            getattr(lake, method)("core", "f", f"run{step}", shards, **options)
            os._exit(0)
        killed = os.waitpid(child, 0)[1] != 0
        table = lake.current("core", "f") and lake.verify("core", "f")
        runs = [run.run_id for run in table.runs] if table else []
        beside = [[*run.beside] for run in table.runs] if table else []
        seen = {"step": step, "killed": killed, "runs": runs, "beside": beside}
        print(json.dumps(seen), flush=True)
        if not killed:
            break
"""

FOREVER = """
    import itertools, sys
    from pathlib import Path
    import polars as pl
    from rul_store.lake import Lake

    lake = Lake(Path(sys.argv[1]))
    for number in itertools.count(1):
        rows = pl.select(x=pl.repeat(number, 200_000)).lazy()
        lake.write("core", "f", f"run{number}", [rows, rows])
        print(number, flush=True)
"""


@pytest.mark.parametrize("method", ["write", "append"])
def test_killed_at_every_step(tmp_path: Path, method: str):
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(AT_EVERY_STEP), tmp_path, method],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    seen = [json.loads(line) for line in done.stdout.splitlines()]
    assert len(seen) > 20
    assert [state["killed"] for state in seen] == [True] * (len(seen) - 1) + [False]
    before: list[str] = []
    changed = 0
    for state in seen:
        new = f"run{state['step']}"
        after = [new] if method == "write" else [*before, new]
        assert state["runs"] in (before, after), state
        assert state["beside"] == [["beside"] if method == "write" else []] * len(state["runs"])
        changed += state["runs"] == after
        before = state["runs"]
    assert before[-1] == f"run{len(seen)}"
    assert 1 < changed < len(seen)
    table = Lake(tmp_path).scan("core", "f").collect()["x"].to_list()
    assert table == [int(run.removeprefix("run")) for run in before for _ in range(5)]


def test_killed_at_any_time(tmp_path: Path):
    chance = random.Random(1)  # noqa: S311
    for _ in range(4):
        writer = subprocess.Popen(
            [sys.executable, "-c", textwrap.dedent(FOREVER), tmp_path], stdout=subprocess.PIPE
        )
        assert writer.stdout is not None
        with writer:
            writer.stdout.readline()
            time.sleep(chance.uniform(0.0, 0.2))
            writer.kill()
            told = [1, *map(int, writer.stdout.read().split())]
        table = Lake(tmp_path).scan("core", "f").collect()["x"]
        assert len(table) == 400_000
        assert table.n_unique() == 1
        assert table[0] in (told[-1], told[-1] + 1)
