"""``rul backup``: backups made, looked at, proved by restoring, let go."""

import signal
import threading
from collections.abc import Generator, Sequence
from contextlib import ExitStack, contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.table import Column, Table

from rul_cli.console import console, print_json
from rul_cli.fleet import Root
from rul_cli.laptop import DEFAULT_ROOT, Laptop, opened, user

if TYPE_CHECKING:  # they take a second, which ``rul --help`` does without
    from prometheus_client import CollectorRegistry

    from rul_backup.keeping import Backups
    from rul_backup.live import Asked, Journal, LiveRestore
    from rul_backup.reading import StoreReader
    from rul_backup.runs import Sealed
    from rul_backup.telling import Tell

app = typer.Typer(
    no_args_is_help=True, help="Backups: made, looked at, proved by restoring, let go."
)

Json = Annotated[bool, typer.Option("--json", help="print JSON")]
RunName = Annotated[
    str | None, typer.Option("--run", help="its name or number; the newest unless given")
]
StoreName = Annotated[str, typer.Option("--store", help="local, or off-site (RUL_BACKUP_OFFSITE)")]
AnyStoreName = Annotated[
    str,
    typer.Option(
        "--store",
        help="local, off-site (RUL_BACKUP_OFFSITE), or the path of an exported archive or of a "
        "folder of backups; of a path the platform is not asked, and need not be there",
    ),
]
IdentityFile = Annotated[
    Path | None,
    typer.Option(
        "--identity",
        help="a file that decrypts, such as backup_escrow_identity from the safe; backup_identity "
        "in the folder of keys unless given",
    ),
]
VerifyKeyFile = Annotated[
    Path | None,
    typer.Option(
        "--verify-key",
        help="the public keys of whoever made the backups; backup_verify_key in the folder of keys "
        "unless given",
    ),
]
STORES = ("local", "off-site")
LEVELS = ("exists", "stored", "content", "structure")


def backups_of(laptop: Laptop) -> "Backups":
    """The backups of a data root."""
    from rul_backup.keeping import Backups
    from rul_backup.reading import BackupSettings

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


def _reader(
    root: Path,
    store: str,
    identity: Path | None = None,
    verify_key: Path | None = None,
    steps: list[dict[str, Any]] | None = None,
) -> "StoreReader":
    """A store, by its files and keys alone; it shows its steps, or adds them to a list."""
    from rul_backup.reading import BackupSettings, StoreReader, reading_keys_of, shelf_of

    if store not in STORES and not Path(store).exists():
        raise typer.BadParameter(
            f"{store!r} is none of {', '.join(STORES)}, and no file or folder that is there"
        )
    settings = BackupSettings()
    keys = reading_keys_of(root, settings, identity=identity, verify_key=verify_key)
    return StoreReader(shelf_of(root, settings, store), keys, _telling(steps))


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
        sealed = _made(backups)
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


def _made(backups: "Backups", before_restore_of: str = "") -> "Sealed":
    """A new run; what it lacks of the container stack is told on the standard error."""
    sealed = backups.make(datetime.now(UTC), before_restore_of=before_restore_of)
    for kind, why in backups.left_out.items():
        typer.echo(f"Without {kind}: {why}", err=True)
    return sealed


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
def list_runs(
    store: AnyStoreName = "local",
    verify_key: VerifyKeyFile = None,
    root: Root = DEFAULT_ROOT,
    json: Json = False,
) -> None:
    """The runs that are there, the newest last."""
    from rul_backup.keeping import Found

    if is_known := store in STORES and verify_key is None:
        with _backups(root) as backups:
            found = backups.there(store)
    else:
        reader = _reader(root, store, verify_key=verify_key)
        found = [Found(sealed, None) for sealed in reader.there()]
    if json:
        print_json([{"manifest": one.sealed.manifest, "proof": one.proof} for one in found])
        return
    if not found:
        console.print("There is no backup yet; `rul backup now` makes one.")
        return
    table = Table(Column("run", no_wrap=True), "ended", "stored bytes", "last drill")
    for one in found:
        told, proof = one.sealed.manifest, one.proof
        proven = (
            f"{proof.proven_at:%Y-%m-%d %H:%M}"
            if proof
            else ("never" if is_known else "unknown here")
        )
        if proof and proof.differences:
            proven = f"differs, {proven}"
        table.add_row(
            told.run,
            f"{told.finished_at:%Y-%m-%d %H:%M}",
            f"{one.sealed.stored_bytes:,}",
            proven,
        )
    console.print(table)
    for told in (one.sealed.manifest for one in found):
        if told.made_before_restore_of:
            console.print(
                f"{told.run} was made before a restore of {told.made_before_restore_of}.",
                highlight=False,
                soft_wrap=True,
            )


@app.command("which")
def which(
    run: RunName = None,
    to: Annotated[
        str | None, typer.Option("--to", help="for `restore --over-live --to`: its moment")
    ] = None,
    store: AnyStoreName = "local",
    identity: IdentityFile = None,
    verify_key: VerifyKeyFile = None,
    root: Root = DEFAULT_ROOT,
) -> None:
    """The name of the run that `restore --over-live` would take; no database is asked."""
    from rul_backup import live

    reader = _reader(root, store, identity, verify_key, [])  # scripts read the name alone
    interrupted = live.interrupted(root)
    if run is None and interrupted is not None:
        run = interrupted.run
    moment = None if to is None else reader.moment(_moment(to), None)
    typer.echo(reader.asked(run, moment).run.manifest.run)


@app.command("needs")
def needs(
    run: RunName = None,
    to: Annotated[
        str | None, typer.Option("--to", help="for `restore --over-live --to`: its moment")
    ] = None,
    store: AnyStoreName = "local",
    identity: IdentityFile = None,
    verify_key: VerifyKeyFile = None,
    root: Root = DEFAULT_ROOT,
) -> None:
    """The bytes that `restore --over-live` would need where PostgreSQL's data are, about."""
    from rul_backup import live

    interrupted = live.interrupted(root)
    if interrupted is not None and interrupted.is_ready:
        typer.echo(0)  # it is there already
        return
    reader = _reader(root, store, identity, verify_key, [])  # scripts read the number alone
    moment = None if to is None else reader.moment(_moment(to), None)
    typer.echo(reader.asked(run, moment).needed_bytes)


@app.command("verify")
def verify(
    level: Annotated[
        str, typer.Option(help=f"how closely: {', '.join(LEVELS)} (the last two decrypt all)")
    ] = "stored",
    store: AnyStoreName = "local",
    identity: IdentityFile = None,
    verify_key: VerifyKeyFile = None,
    root: Root = DEFAULT_ROOT,
    json: Json = False,
) -> None:
    """Look at every object. Ends with 1 where one is not what was written, and names it.

    The newest runs can be missing without a trace in a store; the platform's database knows of
    them, and is asked unless the store is a path, or a key is given.
    """
    from rul_backup.reading import BackupSettings
    from rul_backup.verification import Level

    closely, now = Level(LEVELS.index(_one_of(LEVELS, level))), datetime.now(UTC)
    if store in STORES and identity is verify_key is None:
        with _backups(root) as backups:
            found = backups.verify(closely, now, store)
            where = str(backups.shelf(store))
    else:
        reader = _reader(root, store, identity, verify_key)
        found = reader.verify(closely, now, folder=BackupSettings().backup_scratch)
        where = str(reader.shelf)
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
    """Restore a run into servers of its own and compare. Ends with 1 where it differs.

    Every fleet's champion is loaded, and computes again what it said last. Where there is a log of
    PostgreSQL's, all that it leads to is recovered too.
    """
    with _backups(root) as backups:
        steps = [] if json else None
        now = datetime.now(UTC)
        proved = backups.prove(run, now, _one_of(STORES, store), _telling(steps))
    sealed, proof, champions, reaches_at = proved
    if json:
        found = [one._asdict() for one in champions]
        told = {"run": sealed.manifest.run, "proof": proof, "champions": found}
        print_json(told | {"log_reaches_at": reaches_at, "steps": steps})
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
        told = [f"fleet {one.fleet}, {one.version}: {one.told}" for one in champions]
        for line in told or ["No fleet has a champion, so no prognosis was compared."]:
            console.print(line, highlight=False, soft_wrap=True, markup=False)
        if reaches_at:
            console.print(f"The log leads until {reaches_at.isoformat()}.", highlight=False)
    if proof.differences:
        raise typer.Exit(1)


@app.command("export")
def export(
    to: Annotated[Path, typer.Option(help="a new file, FILE.tar")],
    run: RunName = None,
    with_log: Annotated[
        bool,
        typer.Option(
            "--with-log",
            help="with PostgreSQL's log from the run's base on, which leads to any moment since",
        ),
    ] = False,
    before: Annotated[
        str | None,
        typer.Option(
            "--before",
            help="with the log: from the newest base of before a moment on, such as "
            "2026-11-29T08:30:00Z, so that it leads there, and with the models of the first run "
            "after it; or latest",
        ),
    ] = None,
    store: AnyStoreName = "local",
    verify_key: VerifyKeyFile = None,
    root: Root = DEFAULT_ROOT,
) -> None:
    """Write a run to one file: all that restoring it on a new machine needs, but for the keys.

    list, verify and restore take it as --store FILE.tar.
    """
    if before is not None and not with_log:
        raise typer.BadParameter("--before is for --with-log, without which no moment is reached")
    moment = None if before is None else _moment(before)
    reader = _reader(root, store, verify_key=verify_key)
    sealed = reader.export(run, to, with_log=with_log, before=moment)
    console.print(
        f"{sealed.manifest.run} is in {to}, {to.stat().st_size:,} bytes, encrypted. No key is in "
        "it: restoring needs backup_escrow_identity from the safe and backup_verify_key.",
        highlight=False,
        soft_wrap=True,
    )


@app.command("restore")
def restore(
    database: Annotated[str | None, typer.Option(help="the URL of an empty database")] = None,
    files: Annotated[Path | None, typer.Option(help="a new folder for models and fleets")] = None,
    over_live: Annotated[
        bool,
        typer.Option("--over-live", help="instead: over the platform's own database and data root"),
    ] = False,
    despite_golden: Annotated[
        bool,
        typer.Option(
            "--despite-golden", help="over what lives also where a champion answers otherwise"
        ),
    ] = False,
    to: Annotated[
        str | None,
        typer.Option(
            "--to",
            help="over what lives: the database as it was at a moment, such as "
            "2026-11-29T08:30:00Z, by its log; or latest: all there is",
        ),
    ] = None,
    forget: Annotated[
        bool,
        typer.Option("--forget", help="instead: remove what was there before such restores"),
    ] = False,
    run: RunName = None,
    store: AnyStoreName = "local",
    identity: IdentityFile = None,
    verify_key: VerifyKeyFile = None,
    root: Root = DEFAULT_ROOT,
) -> None:
    """Bring a run back into an empty database and a new folder; never over what is there.

    What Redis had is redis.rdb in the folder; a Redis starts from it as dump.rdb.

    With --over-live what lives is exchanged, once a backup of it is made: by names and all at once,
    so that a kill does no harm; the same command goes on. RUL_DATABASE_ADMIN_URL names a user who
    may make and rename databases, where that of RUL_DATABASE_URL may not. End what writes before.
    """
    targets = [database is not None and files is not None, over_live, forget]
    if sum(targets) != 1 or (database is None) != (files is None):
        raise typer.BadParameter("give --database and --files, or --over-live, or --forget")
    if to is not None and not over_live:
        raise typer.BadParameter(
            "--to is for --over-live; `rul backup recover` brings a moment into a new folder"
        )
    if forget:
        _forget(root)
    elif over_live:
        reader = _reader(root, store, identity, verify_key)
        name = "" if store == "local" else store if store in STORES else str(Path(store).resolve())
        _restore_over_live(root, reader, run, to, name, despite_golden=despite_golden)
    elif database is not None and files is not None:
        sealed = _reader(root, store, identity, verify_key).restore(run, database, files)
        console.print(
            f"{sealed.manifest.run} is restored: its database, and its files in {files}.",
            highlight=False,
            soft_wrap=True,
        )


@app.command("restore-stack")
def restore_stack(
    into: Annotated[
        Path | None,
        typer.Option(help="a new folder for logs, Grafana, Prometheus, settings, dagster.dump"),
    ] = None,
    dagster: Annotated[
        bool,
        typer.Option("--dagster", help="put Dagster's database in the place of one without a run"),
    ] = False,
    run: RunName = None,
    store: AnyStoreName = "local",
    identity: IdentityFile = None,
    verify_key: VerifyKeyFile = None,
    root: Root = DEFAULT_ROOT,
) -> None:
    """Bring back what the container stack had beside the platform, where the run kept any of it.

    With --dagster RUL_DATABASE_ADMIN_URL names a superuser; `rul database migrate` has made the
    roles before.
    """
    if into is None and not dagster:
        raise typer.BadParameter("give --into, or --dagster, or both")
    reader = _reader(root, store, identity, verify_key)
    sealed = reader.find(run, to_restore=True)
    if into is not None:
        restored = reader.restore_stack(sealed.manifest.run, into)
        console.print(
            f"What the stack had is in {into}, of the run {sealed.manifest.run}."
            if restored
            else f"The run {sealed.manifest.run} kept nothing of a stack.",
            highlight=False,
            soft_wrap=True,
        )
    if dagster:
        _put_back_dagster(reader, sealed.manifest.run)


def _put_back_dagster(reader: "StoreReader", run: str) -> None:
    from rul_backup.put_back import put_back_dagster
    from rul_core.errors import SettingsError
    from rul_store.provisioning import ProvisioningSettings

    admin_url = ProvisioningSettings().database_admin_url
    if admin_url is None:
        raise SettingsError(
            "RUL_DATABASE_ADMIN_URL is not set; name a superuser of Dagster's PostgreSQL"
        )
    asked = reader.asked(run)
    count = put_back_dagster(asked, admin_url.get_secret_value())
    console.print(
        f"The run {asked.run.manifest.run} kept nothing of Dagster's database."
        if count is None
        else f"Dagster's database is back, with {count:,} runs.",
        highlight=False,
    )


def _restore_over_live(
    root: Path,
    reader: "StoreReader",
    run: str | None,
    to: str | None,
    store: str,
    *,
    despite_golden: bool,
) -> None:
    from rul_backup import live
    from rul_backup.reading import BackupSettings

    scratch = BackupSettings().backup_scratch
    moment = None if to is None else reader.moment(_moment(to), scratch)
    # Of an older or a newer version too: what is restored has tables of its own.
    with opened(root, migrated=False) as laptop:
        backups, interrupted = backups_of(laptop), live.interrupted(laptop.root)
        if run is None and interrupted is not None:
            run = interrupted.run
            console.print(f"The restore of {run} goes on.", highlight=False)
        asked = reader.asked(run, moment)._replace(store=store)
        line = _RestoredLine(laptop, backups, asked)
        journal = _live_restore(laptop).restore(asked, line, despite_golden=despite_golden)
    before = f" What was there is the run {journal.safety_run} too." if journal.safety_run else ""
    console.print(
        f"{journal.run} is live. Start the web service and Dagster anew. What was there before "
        f"stays beside it until `rul backup restore --forget`.{before}",
        highlight=False,
        soft_wrap=True,
    )


class _RestoredLine:
    """Backups of the line of what is restored, in the place of those that are here."""

    def __init__(self, laptop: Laptop, backups: "Backups", asked: "Asked") -> None:
        self._laptop, self._backups, self._asked = laptop, backups, asked

    def stage(self) -> None:
        from rul_core.errors import SettingsError, StoreError

        self._backups.unstage()  # of a restore that was given up
        try:
            if count := self._backups.adopt(self._asked):
                told = f"Backups here go on after the {count} of that store."
                console.print(told, highlight=False)
        except (SettingsError, StoreError) as error:  # that is no reason not to restore
            console.print(
                f"Backups here do not go on with that line: {error}. Once it is restored, "
                "`rul backup mend` says what becomes of them.",
                highlight=False,
                soft_wrap=True,
            )

    def unstage(self) -> None:
        from rul_core.errors import StoreError

        try:
            self._backups.unstage()
        except StoreError as error:  # no restore begins until it is gone
            console.print(str(error), highlight=False, soft_wrap=True)

    def exchange(self, journal: "Journal") -> None:
        from rul_core.errors import SettingsError, StoreError

        self._laptop.engine.dispose()  # its database is another now
        try:
            aside = self._backups.exchange(journal.safety_run or f"{journal.run}.own")
        except StoreError as error:
            told = "all but the backups is restored, and the same command goes on"
            raise StoreError(f"{told}: {error}") from error
        if aside:
            console.print(
                f"Backups that were made here before, that of now too, are in {aside}.",
                highlight=False,
                soft_wrap=True,
            )
        try:
            self._backups.note()
            for lost in self._backups.give_up_newer(self._asked):
                console.print(
                    f"{lost.run}, number {lost.number}, was lost with its machine: given up.",
                    highlight=False,
                )
        except (SettingsError, StoreError) as error:
            console.print(
                f"Not all runs here are written down: {error}. `rul backup mend` says how they "
                "stand.",
                highlight=False,
                soft_wrap=True,
            )


def _forget(root: Path) -> None:
    with opened(root, migrated=False) as laptop:
        gone, backups = _live_restore(laptop).forget(), backups_of(laptop)
    for name in gone:
        console.print(f"{name} is gone", highlight=False, soft_wrap=True)
    if not gone:
        console.print("Nothing was there before a restore.")
    backups.unstage()
    for folder in backups.aside:
        console.print(
            f"{folder} has backups that were made here before; remove it once nobody needs them",
            highlight=False,
            soft_wrap=True,
        )


def _live_restore(laptop: Laptop) -> "LiveRestore":
    from rul_backup.live import LiveRestore, Platform
    from rul_store.provisioning import ProvisioningSettings

    backups, settings = backups_of(laptop), laptop.settings
    url, admin = settings.database_url, ProvisioningSettings().database_admin_url
    platform = Platform(
        root=laptop.root,
        url=url.get_secret_value(),
        admin_url=(admin or url).get_secret_value(),
        redis_url=settings.redis_url.get_secret_value() if settings.redis_url else None,
        system=backups.system,
    )
    return LiveRestore(platform, lambda restored: _made(backups, restored), _tell_step)


def _tell_step(what: str, seconds: float | None) -> None:
    took = f"{seconds:7.1f} s" if seconds is not None else " " * 9
    console.print(f"{took}  {what}", highlight=False, soft_wrap=True, markup=False)


def _telling(steps: list[dict[str, Any]] | None) -> "Tell":
    """What shows steps, or adds them to a list for JSON."""
    if steps is None:
        return _tell_step
    return lambda what, seconds: steps.append({"step": what, "seconds": seconds})


@app.command("recover")
def recover(
    to: Annotated[
        str, typer.Option(help="a moment, such as 2026-11-29T08:30:00Z; or latest: all there is")
    ],
    into: Annotated[Path, typer.Option(help="a new folder for PostgreSQL's data")],
    store: AnyStoreName = "local",
    identity: IdentityFile = None,
    verify_key: VerifyKeyFile = None,
    root: Root = DEFAULT_ROOT,
    json: Json = False,
) -> None:
    """Bring PostgreSQL's data folder back as it was at a moment, into a new one.

    Needs a base (RUL_BACKUP_REPLICATION_URL), the log since (`rul backup archive`), and a server
    of the same major version here. No database is asked. A server of your own then runs on it.
    """
    until = _moment(to)
    steps = [] if json else None
    found = _reader(root, store, identity, verify_key, steps).recover(until, into)
    if json:
        print_json(found._asdict() | {"folder": str(found.folder), "steps": steps})
        return
    reaches = f"until {found.reaches_at.isoformat()}" if found.reaches_at else "to the end"
    console.print(
        f"{found.folder} has all that was committed {reaches}, from the base of {found.run} and "
        f"{found.segments} segments; the last commit is of {found.last_commit_at or 'the base'}.",
        highlight=False,
        soft_wrap=True,
    )


def _moment(text: str) -> datetime | None:
    """That of a text; none for all there is."""
    if text == "latest":
        return None
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
    from rul_backup.archiving import REGISTRY, say
    from rul_backup.keeping import archiver_of
    from rul_backup.reading import BackupSettings

    stop, settings = _until_ended(), BackupSettings()
    _serve_metrics(port, REGISTRY)
    with ExitStack() as stack:
        url = settings.backup_replication_url
        if url is None:
            url = stack.enter_context(opened(root)).settings.database_url
        archiver = archiver_of(
            root,
            settings,
            url.get_secret_value(),
            spool or root / "wal-spool",
            tell=say,
            archive_timeout_seconds=timeout,
        )
        archiver.run(stop)


@app.command("bring-log")
def bring_log(
    port: Annotated[int, typer.Option(help="of the metrics; 0 for none")] = 0,
    root: Root = DEFAULT_ROOT,
) -> None:
    """Bring PostgreSQL's log beyond the machine as it is sealed, until it is ended.

    No server of the platform is asked. Without RUL_BACKUP_OFFSITE there is nothing to do.
    """
    from rul_backup.archiving import say
    from rul_backup.bringing import REGISTRY, LogBringer
    from rul_backup.reading import (
        BackupSettings,
        local_store_of,
        reading_keys_of,
        remote_store_of,
    )

    stop, settings = _until_ended(), BackupSettings()
    _serve_metrics(port, REGISTRY)
    if settings.backup_offsite is None:
        say(waits="RUL_BACKUP_OFFSITE is not set, so nothing is brought")
        stop.wait()
        return
    verify_keys = reading_keys_of(root, settings).verify_keys()
    remote = remote_store_of(settings)
    LogBringer(local_store_of(root, settings), remote, verify_keys, tell=say).run(stop)


def _serve_metrics(port: int, registry: "CollectorRegistry") -> None:
    from prometheus_client import start_http_server

    if port:
        start_http_server(port, registry=registry)


def _until_ended() -> threading.Event:
    """Set when somebody ends this process."""
    stop = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: stop.set())
    return stop


@app.command("mend")
def mend(
    apply: Annotated[bool, typer.Option("--apply", help="do it; else it is only told")] = False,
    lost_beyond: Annotated[
        bool,
        typer.Option("--lost-beyond", help="what is not beyond the machine any more is lost there"),
    ] = False,
    root: Root = DEFAULT_ROOT,
) -> None:
    """Bring manifests that are damaged or missing back from beyond the machine, or give them up.

    Until then nothing is let go, and after a damaged one no run is made. It ends with 1 where one
    cannot be mended.
    """
    from rul_backup.mending import Fate

    with _backups(root) as backups:
        found = backups.to_mend(lost_beyond=lost_beyond)
        for one in found:
            console.print(str(one), highlight=False, soft_wrap=True)
        if apply:
            backups.mend(found)
    if not found:
        console.print("Every manifest is there and can be read.", highlight=False)
    elif not apply:
        console.print("Nothing was changed; --apply does it.", highlight=False)
    if any(one.fate is Fate.STAYS for one in found):
        raise typer.Exit(1)


@app.command("prune")
def prune(
    apply: Annotated[bool, typer.Option("--apply", help="do it; else it is only told")] = False,
    weeks: Annotated[
        int | None,
        typer.Option(help="for how many weeks one a week stays; RUL_BACKUP_WEEKS unless given"),
    ] = None,
    months: Annotated[
        int | None,
        typer.Option(help="for how many months one a month stays; RUL_BACKUP_MONTHS unless given"),
    ] = None,
    clock_is_right: Annotated[
        bool,
        typer.Option(
            "--clock-is-right",
            help="go on where it seems to have jumped, or no run came for a day; with --apply the "
            "nightly job goes on too",
        ),
    ] = False,
    root: Root = DEFAULT_ROOT,
) -> None:
    """Let runs go: all of 48 hours stay, one a day for 30 days, and the newest that were proved."""
    with _backups(root) as backups:
        now = datetime.now(UTC)
        policy = backups.policy(weeks, months)
        plan = backups.plan(policy, now, clock_is_right=clock_is_right)
        leftovers = backups.left_behind(now)
        if apply and clock_is_right:
            backups.confirm_clock(now)
        if apply:
            leftovers = backups.let_go(plan.drop, now)
    for number, reason in plan.keep.items():
        console.print(f"{number} stays: {reason}", highlight=False)
    for number in plan.drop:
        console.print(f"{number} {'went' if apply else 'may go'}", highlight=False)
    for name in leftovers:
        done = "is removed" if apply else "may be removed"
        console.print(f"{name} is of no run that stays; it {done}", highlight=False)
