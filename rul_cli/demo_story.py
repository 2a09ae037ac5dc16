"""The demonstration: the main job from beginning to end, on this laptop, to look at.

What belongs here: the story, step by step, and its check. What does not: the command and its
options (``demo``), its data (``demo_data``), the programs (``programs``), any step's own work.
"""

import os
import shutil
import time
import urllib.request
from collections.abc import Collection
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import msgspec
from rich.progress import Progress, SpinnerColumn, TaskID, TextColumn, TimeElapsedColumn
from rich.table import Table

from rul_cli import programs
from rul_cli.backup import backups_of, plant_keys
from rul_cli.console import console
from rul_cli.demo_data import DemoData
from rul_cli.laptop import DEFAULT_ROOT, Laptop
from rul_cli.programs import Program
from rul_core.errors import RulError
from rul_core.prognosis import VALID_STATES, Prognosis
from rul_store import files, fleets, landing
from rul_store.embedded import EmbeddedServers

if TYPE_CHECKING:
    from dagster import DagsterInstance, DagsterRun

SHOWN = 12
RETRAIN_TIMEOUT_SECONDS = 900.0
LOOK_EVERY_SECONDS = 1.0


class DemoFailed(RulError):
    """The demonstration did not show what it promises."""


class Served(msgspec.Struct, frozen=True):
    """What the demonstration reads of a fleet's model."""

    fleet: str
    served_version: str | None


class ServedModels(msgspec.Struct, frozen=True):
    """What the demonstration reads of all models."""

    models: list[Served]


class Drilled(NamedTuple):
    """A backup that was restored."""

    run: str
    seconds: float


class Ranked(msgspec.Struct, frozen=True):
    """What the demonstration reads of the API's ranking."""

    units: list[Prognosis]
    units_without_valid_prognosis: int


def own_folder() -> Path:
    """The demonstration's own data root, made anew each time."""
    folder = DEFAULT_ROOT / "demo"
    if not EmbeddedServers(folder / "servers").discard():
        raise DemoFailed(f"another demonstration runs on {folder}; stop it, or give --root")
    shutil.rmtree(folder, ignore_errors=True)
    return folder


def tell(
    laptop: Laptop, material: DemoData, wanted: tuple[int, int], started: float, *, once: bool
) -> dict:
    """The story; its outcome for programs."""
    fleet = material.fleet.name
    environment = laptop.environment() | {"RUL_RETRAIN_COOL_DOWN_SECONDS": "0"}
    # Dagster's instance reads it in this process.
    for name in os.environ.keys() - environment.keys():
        del os.environ[name]
    os.environ.update(environment)
    for remark in material.remarks:
        console.print(f"  • {remark}", markup=False, highlight=False)
    fleets.save(laptop.root, material.fleet)
    plant_keys(laptop)
    _land(laptop.root, fleet, material.first)
    logs, (dagster_port, api_port) = laptop.root / "logs", map(programs.free_port, wanted)
    with ExitStack() as stack:
        api = stack.enter_context(programs.api(environment, api_port, logs / "api.log"))
        _run(environment, logs / "first_run.log", "everything", fleet)
        address = f"http://127.0.0.1:{api_port}"
        api.wait_until_it_answers(f"{address}/livez", 60)
        first = _wait_for_version(address, fleet, None, api)
        ranked = _ranked(address, fleet)
        seconds = time.monotonic() - started
        _show(fleet, ranked, f"model {first}; first prognosis after {seconds:.0f} s")
        dagster = stack.enter_context(
            programs.dagster(environment, dagster_port, logs / "dagster.log")
        )
        dagster.wait_until_it_answers(f"http://127.0.0.1:{dagster_port}/server_info", 180)
        console.print(f"Fleet    {address}/v1/fleets/{fleet}/units")
        console.print(f"OpenAPI  {address}/schema")
        console.print(f"Dagster  http://127.0.0.1:{dagster_port}")
        console.print("Now more machines fail: their last readings land, and a sensor sees them.")
        _land(laptop.root, fleet, material.later)
        second = _watch(address, fleet, first, api, dagster)
        again = _ranked(address, fleet)
        _show(fleet, again, f"model {second}, in place of {first}")
        console.print(
            "All of it is kept, and restored into servers of its own, to see that it can be."
        )
        for job in ("back_up", "prove_backups"):
            _run(environment, logs / f"{job}.log", job)
        proof = _proof(laptop)
        outcome = {
            "fleet": fleet,
            "first_version": first,
            "second_version": second,
            "seconds_to_first_prognosis": round(seconds, 1),
            "seconds": round(time.monotonic() - started, 1),
            "units": len(again.units),
            "units_without_valid_prognosis": again.units_without_valid_prognosis,
            "restored_run": proof.run,
            "seconds_to_restore": round(proof.seconds, 1),
        }
        _check(ranked, again)
        if not once:
            _linger(api, dagster)
    return outcome


def _proof(laptop: Laptop) -> Drilled:
    """What the drill found of the newest backup.

    Raises:
        DemoFailed: It is not what was kept.
    """
    found = backups_of(laptop).there()[-1]
    run, proof = found.sealed.manifest.run, found.proof
    if proof is None or proof.differences:
        raise DemoFailed(
            f"the backup {run} does not restore: {proof.differences if proof else 'no drill ran'}"
        )
    console.print(
        f"Backup {run} was restored in {proof.seconds:.1f} s; every table has what was kept. "
        f"`rul backup list --root {laptop.root}` shows it.",
        highlight=False,
    )
    return Drilled(run, proof.seconds)


def _land(root: Path, fleet: str, content: dict[str, bytes]) -> None:
    for name, data in content.items():
        files.write(root / landing.FOLDER / fleet / name, data)


def _run(environment: dict[str, str], log: Path, job: str, *fleet: str) -> None:
    """A job from its first step to its last, with progress shown."""
    from dagster import DagsterInstance

    bar = Progress(
        SpinnerColumn(finished_text="✓"),
        TextColumn("{task.description}"),
        TimeElapsedColumn(),
        console=console,
    )
    with DagsterInstance.get() as instance:
        known = {run.run_id for run in instance.get_runs()}
        with programs.job(environment, log, job, *fleet) as run, bar:
            follow(instance, bar, run, known)


def follow(
    instance: "DagsterInstance", bar: Progress, program: Program, known: Collection[str] = ()
) -> None:
    """A line for each step of the newest run, as it begins and ends, until the program has ended.

    Args:
        instance: Dagster's.
        bar: Where the lines are.
        program: Makes the run.
        known: Runs that were there before.

    Raises:
        ProgramError: The program failed.
    """
    from dagster import DagsterEventType

    tasks: dict[str, TaskID] = {}
    cursor = None
    while True:
        ended = program.has_ended()
        for run in instance.get_runs(limit=1):
            if run.run_id in known:
                continue
            page = instance.get_records_for_run(run.run_id, cursor=cursor)
            cursor = page.cursor
            for record in page.records:
                event = record.event_log_entry.dagster_event
                if event is None or event.step_key is None:
                    continue
                if event.event_type is DagsterEventType.STEP_START:
                    tasks[event.step_key] = bar.add_task(event.step_key, total=1)
                elif event.event_type is DagsterEventType.STEP_SUCCESS:
                    bar.update(tasks[event.step_key], completed=1)
        if ended:
            return
        time.sleep(0.2)


def _get(url: str) -> bytes:
    with urllib.request.urlopen(url, timeout=10) as answer:  # noqa: S310 - our own address
        return answer.read()


def _ranked(address: str, fleet: str) -> Ranked:
    url = f"{address}/v1/fleets/{fleet}/units?limit=100"
    return msgspec.json.decode(_get(url), type=Ranked)


def _served_version(address: str, fleet: str) -> str | None:
    models = msgspec.json.decode(_get(f"{address}/v1/models"), type=ServedModels).models
    return next((model.served_version for model in models if model.fleet == fleet), None)


def _wait_for_version(address: str, fleet: str, before: str | None, api: Program) -> str:
    """The version that answers, once it is another than before."""
    deadline = time.monotonic() + RETRAIN_TIMEOUT_SECONDS
    while time.monotonic() < deadline:
        api.check()
        version = _served_version(address, fleet)
        if version is not None and version != before:
            return version
        time.sleep(LOOK_EVERY_SECONDS)
    raise DemoFailed(
        f"fleet {fleet} was still served by {before} after {RETRAIN_TIMEOUT_SECONDS:.0f} s; "
        "Dagster's page says what its sensors and runs did"
    )


def _watch(address: str, fleet: str, before: str, api: Program, dagster: Program) -> str:
    """Tell of each run that Dagster starts, until another version speaks for every unit."""
    from dagster import DagsterInstance, DagsterRunStatus

    told: dict[str, DagsterRunStatus] = {}
    deadline = time.monotonic() + RETRAIN_TIMEOUT_SECONDS
    with DagsterInstance.get() as instance:
        known = {run.run_id for run in instance.get_runs()}
        while time.monotonic() < deadline:
            api.check()
            dagster.check()
            runs = [run for run in instance.get_runs(limit=50) if run.run_id not in known]
            for run in reversed(runs):
                if told.get(run.run_id) != run.status:
                    told[run.run_id] = run.status
                    _tell_of(run)
                    if run.status is DagsterRunStatus.SUCCESS:
                        refuse_unreleased(instance, run)
                if run.status is DagsterRunStatus.FAILURE:
                    raise DemoFailed(
                        f"run {run.run_id} failed; the end of {dagster.log}:\n"
                        f"{dagster.end_of_log(40)}"
                    )
            version = _served_version(address, fleet)
            if version not in (None, before) and all(run.is_finished for run in runs):
                units = _ranked(address, fleet).units
                if all(unit.provenance.model_version == version for unit in units):
                    return str(version)
            time.sleep(LOOK_EVERY_SECONDS)
    raise DemoFailed(
        f"fleet {fleet} was still served by {before} after {RETRAIN_TIMEOUT_SECONDS:.0f} s; "
        f"the end of {dagster.log}:\n{dagster.end_of_log(40)}"
    )


def refuse_unreleased(instance: "DagsterInstance", run: "DagsterRun") -> None:
    """See that a run that trained a challenger also released it: nobody need wait for it else.

    Raises:
        DemoFailed: It did not; says why.
    """
    from dagster import AssetKey, DagsterEventType

    champion, made = AssetKey("released_model"), DagsterEventType.ASSET_MATERIALIZATION
    for record in instance.get_records_for_run(run.run_id, of_type=made).records:
        event = record.event_log_entry
        if event.asset_materialization is None or event.asset_materialization.asset_key != champion:
            continue
        told = event.asset_materialization.metadata
        if not told["released"].value:
            raise DemoFailed(
                f"a challenger was trained, and is not released: {told['why'].value}; so the "
                f"champion {told['champion'].value} stays, as it should on such data"
            )


def _tell_of(run: "DagsterRun") -> None:
    assets = ", ".join(sorted(key.to_user_string() for key in run.asset_selection or ()))
    reason = run.tags.get("rul/reason")
    console.print(
        f"  {time.strftime('%H:%M:%S')}  {run.status.value.lower():9} {assets or run.job_name}"
        f"{f' (reason: {reason})' if reason else ''}",
        highlight=False,
    )


def _show(fleet: str, ranked: Ranked, caption: str) -> None:
    table = Table(title=f"Fleet {fleet}: who fails first", caption=caption)
    table.add_column("unit", no_wrap=True)
    for heading in ("cycle", "RUL", "50 % band", "90 % band", "risk"):
        table.add_column(heading, justify="right", no_wrap=True)
    table.add_column("state")
    for unit in ranked.units[:SHOWN]:
        table.add_row(
            unit.unit,
            _number(unit.cycle),
            _number(unit.rul_cycles),
            _band(unit.lower_50_cycles, unit.upper_50_cycles),
            _band(unit.lower_90_cycles, unit.upper_90_cycles),
            "–" if unit.failure_probability is None else f"{unit.failure_probability:.1%}",
            unit.state.value if unit.state in VALID_STATES else f"{unit.state}: {unit.detail}",
        )
    console.print(table)
    more = len(ranked.units) - SHOWN
    without = ranked.units_without_valid_prognosis
    console.print(
        f"Risk: of failing within the lead time. {max(more, 0)} more units; "
        f"{without} without a valid prognosis.",
        highlight=False,
    )


def _number(value: float | None) -> str:
    return "–" if value is None else f"{value:.0f}"


def _band(lower: float | None, upper: float | None) -> str:
    if lower is None:
        return "–"
    return f"{lower:.0f} … {upper:.0f}" if upper is not None else f"≥ {lower:.0f}"


def _check(first: Ranked, second: Ranked) -> None:
    """What the demonstration promises, said of what it showed."""
    for ranked in (first, second):
        valid = [unit for unit in ranked.units if unit.state in VALID_STATES]
        if not valid:
            raise DemoFailed("no unit has a valid prognosis")
        risks = [unit.failure_probability or 0.0 for unit in valid]
        if risks != sorted(risks, reverse=True):
            raise DemoFailed(f"the fleet is not ranked by risk: {risks}")
        for unit in valid:
            outer, inner = unit.lower_90_cycles, unit.lower_50_cycles
            if outer is None or inner is None or outer > inner:
                raise DemoFailed(f"{unit.unit}: its bands do not nest: {outer}, {inner}")


def _linger(api: Program, dagster: Program) -> None:
    console.print("Everything keeps running; Ctrl-C stops it.")
    try:
        while True:
            api.check()
            dagster.check()
            time.sleep(1)
    except KeyboardInterrupt:
        console.print("Stopping.")
