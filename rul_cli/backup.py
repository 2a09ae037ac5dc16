"""``rul backup``: backups made, looked at, proved by restoring, let go."""

import os
import signal
import threading
from collections.abc import Generator, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.table import Column, Table

from rul_cli.console import console, print_json
from rul_cli.fleet import Root
from rul_cli.laptop import DEFAULT_ROOT, Laptop, opened, user

if TYPE_CHECKING:  # they take a second, which ``rul --help`` does without
    from rul_backup.keeping import Backups

app = typer.Typer(
    no_args_is_help=True, help="Backups: made, looked at, proved by restoring, let go."
)

Json = Annotated[bool, typer.Option("--json", help="print JSON")]
RunName = Annotated[str | None, typer.Option("--run", help="its name; the newest unless given")]
StoreName = Annotated[str, typer.Option("--store", help="local, or off-site (RUL_BACKUP_OFFSITE)")]
STORES = ("local", "off-site")
LEVELS = ("exists", "stored", "content")


def backups_of(laptop: Laptop) -> "Backups":
    """The backups of a data root."""
    from rul_backup.keeping import Backups, BackupSettings

    url = laptop.settings.redis_url
    redis_url = url.get_secret_value() if url else None
    return Backups(laptop.root, BackupSettings(), laptop.engine, redis_url)


def plant_keys(laptop: Laptop) -> Path:
    """The folder of the keys of a laptop's backups; made where nobody has made or named any."""
    backups = backups_of(laptop)
    if backups.keys_folder.exists():
        return backups.keys_folder
    return backups.make_keys(f"{user()}'s laptop")


def _one_of(known: Sequence[str], given: str) -> str:
    if given not in known:
        raise typer.BadParameter(f"{given!r} is none of {', '.join(known)}")
    return given


@contextmanager
def _backups(root: Path) -> Generator["Backups"]:
    with opened(root) as laptop:
        yield backups_of(laptop)


@app.command("keys")
def make_keys(
    system: Annotated[str, typer.Argument(help="the platform's name, as its backups bear it")],
    root: Root = DEFAULT_ROOT,
) -> None:
    """Make the keys of a platform's backups. Nothing is written over."""
    with _backups(root) as backups:
        folder = backups.make_keys(system)
    console.print(
        f"Keys of {system} are in {folder}. Move backup_escrow_identity into a safe: when this "
        "machine is lost, nothing else opens the backups.",
        highlight=False,
        soft_wrap=True,
    )


@app.command("now")
def make(root: Root = DEFAULT_ROOT, json: Json = False) -> None:
    """Keep the platform's database, Redis, models and fleets."""
    with _backups(root) as backups:
        sealed = backups.make(datetime.now(UTC))
    told = sealed.manifest
    if json:
        print_json(told)
        return
    table = Table("kept", "bytes", "stored", "")
    for kept in told.artefacts:
        rows = sum(each["rows"] for each in kept.facts.get("tables", {}).values())
        what = f"{rows:,} rows" if rows else ""
        if "files" in kept.facts:
            what = f"{kept.facts['files']:,} files"
        if kept.run:
            what += f", as in {kept.run}"
        table.add_row(kept.name, f"{kept.sums.plain_bytes:,}", f"{kept.sums.stored_bytes:,}", what)
    console.print(table)
    console.print(f"Run {told.run}, number {told.number}.", highlight=False)


@app.command("bring")
def bring(root: Root = DEFAULT_ROOT, json: Json = False) -> None:
    """Bring what the store beyond the machine lacks; it can break off and go on."""
    with _backups(root) as backups:
        brought = backups.bring()
        where = str(backups.shelf("off-site"))
    if json:
        print_json(brought._asdict())
        return
    console.print(
        f"{brought.runs} runs, {brought.segments} segments, {brought.bytes:,} bytes, to {where}.",
        highlight=False,
        soft_wrap=True,
    )


@app.command("list")
def list_runs(store: StoreName = "local", root: Root = DEFAULT_ROOT, json: Json = False) -> None:
    """The runs that are there, the newest last."""
    with _backups(root) as backups:
        found = backups.there(_one_of(STORES, store))
    if json:
        print_json([{"manifest": one.sealed.manifest, "proof": one.proof} for one in found])
        return
    if not found:
        console.print("There is no backup yet; `rul backup now` makes one.")
        return
    table = Table(Column("run", no_wrap=True), "ended", "stored bytes", "last drill")
    for one in found:
        told, proof = one.sealed.manifest, one.proof
        proven = f"{proof.proven_at:%Y-%m-%d %H:%M}" if proof else "never"
        if proof and proof.differences:
            proven = f"differs, {proven}"
        table.add_row(
            told.run,
            f"{told.finished_at:%Y-%m-%d %H:%M}",
            f"{one.sealed.stored_bytes:,}",
            proven,
        )
    console.print(table)


@app.command("verify")
def verify(
    level: Annotated[
        str, typer.Option(help=f"how closely: {', '.join(LEVELS)} (decrypts everything)")
    ] = "stored",
    store: StoreName = "local",
    root: Root = DEFAULT_ROOT,
    json: Json = False,
) -> None:
    """Look at every object. Ends with 1 where one is not what was written, and names it."""
    from rul_backup.verification import Level

    closely = Level(LEVELS.index(_one_of(LEVELS, level)))
    with _backups(root) as backups:
        found = backups.verify(closely, datetime.now(UTC), _one_of(STORES, store))
        where = str(backups.shelf(store))
    if json:
        print_json(found._asdict())
    elif found.findings:
        for finding in found.findings:
            console.print(
                f"{where}/{finding.object}: {finding.problem}", highlight=False, soft_wrap=True
            )
    else:
        console.print(
            f"{found.runs} runs, {found.objects} objects in {where}: all as they were written.",
            highlight=False,
            soft_wrap=True,
        )
    if found.findings:
        raise typer.Exit(1)


@app.command("drill")
def drill(
    run: RunName = None,
    store: StoreName = "local",
    root: Root = DEFAULT_ROOT,
    json: Json = False,
) -> None:
    """Restore a run's database beside the live one and compare. Ends with 1 where it differs."""
    with _backups(root) as backups:
        sealed, proof = backups.prove(run, datetime.now(UTC), _one_of(STORES, store))
    if json:
        print_json({"run": sealed.manifest.run, "proof": proof})
    elif proof.differences:
        for told in proof.differences:
            console.print(f"{sealed.manifest.run}: {told}", highlight=False, soft_wrap=True)
    else:
        console.print(
            f"{sealed.manifest.run} was restored in {proof.seconds:.1f} s; "
            "every table has what was kept.",
            highlight=False,
            soft_wrap=True,
        )
    if proof.differences:
        raise typer.Exit(1)


@app.command("restore")
def restore(
    database: Annotated[str, typer.Option(help="the URL of an empty database")],
    files: Annotated[Path, typer.Option(help="a new folder for models and fleets")],
    run: RunName = None,
    store: StoreName = "local",
    root: Root = DEFAULT_ROOT,
) -> None:
    """Bring a run back into an empty database and a new folder; never over what is there.

    What Redis had is redis.rdb in the folder; a Redis starts from it as dump.rdb.
    """
    with _backups(root) as backups:
        sealed = backups.restore(run, database, files, _one_of(STORES, store))
    console.print(
        f"{sealed.manifest.run} is restored: its database, and its files in {files}.",
        highlight=False,
        soft_wrap=True,
    )


@contextmanager
def _without_database(root: Path) -> Generator["Backups"]:
    """The backups of a data root whose database may be lost, or is not ours to look at."""
    from rul_backup.keeping import Backups, BackupSettings
    from rul_store.database import connect

    engine = connect("postgresql:///")  # never reached
    yield Backups(_named(root), BackupSettings(), engine, None)


def _named(root: Path | None) -> Path:
    return root or Path(os.environ.get("RUL_ROOT") or DEFAULT_ROOT)


@app.command("recover")
def recover(
    to: Annotated[
        str, typer.Option(help="a moment, such as 2026-11-29T08:30:00Z; or latest: all there is")
    ],
    into: Annotated[Path, typer.Option(help="a new folder for PostgreSQL's data")],
    store: StoreName = "local",
    root: Root = DEFAULT_ROOT,
    json: Json = False,
) -> None:
    """Bring PostgreSQL's data folder back as it was at a moment, into a new one.

    Needs a base (RUL_BACKUP_REPLICATION_URL), the log since (`rul backup archive`), and a server
    of the same major version here. No database is asked. A server of your own then runs on it.
    """
    until = None if to == "latest" else _moment(to)
    with _without_database(root) as backups:
        found = backups.recover(until, into, _one_of(STORES, store))
    if json:
        print_json(found._asdict() | {"folder": str(found.folder)})
        return
    reaches = f"until {found.reaches_at.isoformat()}" if found.reaches_at else "to the end"
    console.print(
        f"{found.folder} has all that was committed {reaches}, from the base of {found.run} and "
        f"{found.segments} segments; the last commit is of {found.last_commit_at or 'the base'}.",
        highlight=False,
        soft_wrap=True,
    )


def _moment(text: str) -> datetime:
    try:
        moment = datetime.fromisoformat(text)
    except ValueError as error:
        raise typer.BadParameter(f"{text!r} is no moment; 2026-11-29T08:30:00Z is one") from error
    if moment.tzinfo is None:
        raise typer.BadParameter(f"{text!r} has no zone; put Z or +01:00 after it")
    return moment


@app.command("archive")
def archive(
    spool: Annotated[
        Path | None, typer.Option(help="a folder that survives a restart; wal-spool/ in the root")
    ] = None,
    timeout: Annotated[
        float,
        typer.Option(help="after how many seconds what was written is sealed, however little"),
    ] = 60.0,
    port: Annotated[int, typer.Option(help="of the metrics; 0 for none")] = 0,
    root: Root = DEFAULT_ROOT,
) -> None:
    """Receive PostgreSQL's log and seal it into the store, until it is ended.

    It talks to RUL_BACKUP_REPLICATION_URL, or else to the platform's own database.
    """
    from prometheus_client import start_http_server

    from rul_backup.archiving import REGISTRY, say
    from rul_backup.keeping import BackupSettings

    stop = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: stop.set())
    if port:
        start_http_server(port, registry=REGISTRY)
    alone = BackupSettings().backup_replication_url is not None
    with _without_database(root) if alone else _backups(root) as backups:
        backups.archiver(spool or _named(root) / "wal-spool", timeout, say).run(stop)


@app.command("prune")
def prune(
    apply: Annotated[bool, typer.Option("--apply", help="do it; else it is only told")] = False,
    weeks: Annotated[int, typer.Option(help="for how many weeks one a week stays")] = 0,
    months: Annotated[int, typer.Option(help="for how many months one a month stays")] = 0,
    root: Root = DEFAULT_ROOT,
) -> None:
    """Let runs go: all of 48 hours stay, one a day for 30 days, and the newest that were proved."""
    from rul_backup.retention import Policy

    policy = Policy(weekly_for=timedelta(weeks=weeks), monthly_for=timedelta(days=31 * months))
    with _backups(root) as backups:
        now = datetime.now(UTC)
        plan, leftovers = backups.plan(policy, now), backups.left_behind(now)
        if apply:
            leftovers = backups.let_go(plan.drop, now)
    for number, reason in plan.keep.items():
        console.print(f"{number} stays: {reason}", highlight=False)
    for number in plan.drop:
        console.print(f"{number} {'went' if apply else 'may go'}", highlight=False)
    for name in leftovers:
        done = "is removed" if apply else "may be removed"
        console.print(f"{name} is of no run that stays; it {done}", highlight=False)
