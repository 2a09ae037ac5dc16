"""A run restored over a live platform, so that at no moment half of it is there.

What belongs here: the order of the steps, the journal, the database. What does not: the files
(``swapping``), what is found of models (``golden``), restoring where nothing is (``drill``).

    prepare   a backup of what is there now; the dump, or what the log brings back, restored into a
              database beside, compared, migrated; models and fleets staged; every champion tried.
              What lives is not touched.
    ready     from here on it only goes forward: bundles are added, the two databases exchange their
              names in one transaction, the other files follow, Redis forgets what units it knew

A journal in the data root says how far it came. Who is killed while it prepares has changed nothing
that lives; who is killed later goes on by asking for the same again. What was there before stays,
the database as ``<name>_before_<run>`` and files in ``.rul_before_<run>``, until it is forgotten.

Redis is not restored: it holds what may be lost. It forgets states of units, since those that it
has are of readings that the restored database may not have; what counts requests may stay.
"""

import hashlib
import os
import re
import shlex
import shutil
import tempfile
import threading
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import NamedTuple, Protocol

import msgspec
import redis
import sqlalchemy as sa
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
from pyrage import x25519
from sqlalchemy.dialects import postgresql
from sqlalchemy.engine import make_url
from sqlalchemy.exc import ProgrammingError

from rul_backup import drill, fingerprints, golden, recovery, snapshots, swapping
from rul_backup.manifest import Kind
from rul_backup.runs import Sealed
from rul_backup.stores import Shelf
from rul_backup.telling import Result, Tell, timed
from rul_core.errors import RulError, StoreError
from rul_store import champions, database, files, states
from rul_store.cache import connect_redis
from rul_store.database import VERSION_TABLE, begin, engine_of
from rul_store.provisioning import MAINTENANCE

JOURNAL, LOCK = ".restoring.json", ".restoring.lock"
LATEST = "latest"
"""Instead of a moment: all there is."""
_LONGEST_NAME, _RUN = 63, r"\d{8}t\d{6}z-[0-9a-f]{6}"
_BEFORE, _BESIDE = "_before_", "_restoring"
_PREFIX_LENGTH = _LONGEST_NAME - len(_BEFORE) - len("20260101t000000z-000000")
_ENDING_SECONDS = 0.1
_REDIS_SECONDS = 10.0
# Which not everybody may see.
_DATA_FOLDER = "SELECT setting FROM pg_settings WHERE name = 'data_directory'"
_quote = postgresql.dialect().identifier_preparer.quote


class Platform(NamedTuple):
    """What is restored over."""

    root: Path
    """The data root."""
    url: str
    """Its database, of the tables' owner."""
    admin_url: str
    """Of a user who may make and rename databases and end others' sessions."""
    redis_url: str | None
    system: str | None
    """Its name, where it has one yet."""


class Moment(NamedTuple):
    """That the database shall be as it was at a moment, by its log, and not as a run kept it."""

    until: datetime | None
    """None for all that is archived."""
    keys: Sequence[Ed25519PublicKey]
    """Of our signatures."""
    folder: Path | None = None
    """Where it is recovered; the system's folder for such unless given."""


class Asked(NamedTuple):
    """What shall be restored."""

    shelf: Shelf
    run: Sealed
    """Has models and fleets, and the database unless a moment is asked for."""
    identities: Sequence[x25519.Identity]
    moment: Moment | None = None
    store: str = ""
    """What the command calls the shelf; empty where nobody needs to say so."""

    @property
    def to(self) -> str:
        """The moment as the journal has it: the same text for the same one, in whatever zone."""
        if self.moment is None:
            return ""
        until = self.moment.until
        return until.astimezone(UTC).isoformat() if until else LATEST

    @property
    def needed_bytes(self) -> int:
        """What PostgreSQL needs for the database beside the one that lives, about.

        Its tables, their indexes, and the log of writing both.
        """
        base = snapshots.base_of(self.run)
        if self.moment is not None and base is not None:
            return 2 * base.sums.plain_bytes
        return 3 * snapshots.dump_of(self.run).sums.plain_bytes


class Journal(msgspec.Struct, frozen=True, kw_only=True):
    """How far a restore came."""

    run: str
    sha256: str
    """Of its manifest."""
    safety_run: str = ""
    """The backup of what was there before; none where nothing was."""
    is_ready: bool = False
    leaving: dict[str, list[str]] = {}
    """Files and bundles that the run does not have, and that go aside."""
    to: str = ""
    """The moment that was asked for, or ``latest``; empty where the database is the run's."""
    store: str = ""
    """In which the run is, as the command calls it; empty for the one here."""

    @property
    def options(self) -> str:
        """Of the command that lets it go on."""
        return (
            f"--run {self.run}"
            + (f" --to {self.to}" if self.to else "")
            + (f" --store {shlex.quote(self.store)}" if self.store else "")
        )


def interrupted(root: Path) -> Journal | None:
    """The restore that was begun and did not end, if there is one.

    Raises:
        StoreError: The journal is damaged.
    """
    path = root / JOURNAL
    try:
        return msgspec.json.decode(path.read_bytes(), type=Journal)
    except FileNotFoundError:
        return None
    except msgspec.DecodeError as error:
        raise StoreError(
            f"{path} is damaged: {error}; look which databases there are, then remove it"
        ) from error


def refuse_unfinished(root: Path) -> None:
    """See that no restore has begun to change what lives without coming to its end.

    Raises:
        StoreError: One has, or the journal is damaged.
    """
    journal = interrupted(root)
    if journal is not None and journal.is_ready:
        raise StoreError(
            f"a restore of {journal.run} is on its way, or was interrupted there; let "
            f"`rul backup restore --over-live {journal.options}` go on first, with the keys that "
            "were given"
        )


class Beside(Protocol):
    """What is made ready beside what lives, and takes its place with the database."""

    def stage(self) -> None:
        """Make it ready; nothing that lives is touched."""
        ...

    def unstage(self) -> None:
        """Remove it, for nothing is restored."""
        ...

    def exchange(self, journal: Journal) -> None:
        """Put it in the place of what was; done again after a kill."""
        ...


class LiveRestore:
    """Restores a run over a platform.

    Args:
        platform: Which.
        keep: Makes a backup of what is there now, before the restore of the run that it is told.
        tell: Told of each step, and of what else is worth knowing.
    """

    def __init__(
        self,
        platform: Platform,
        keep: Callable[[str], Sealed],
        tell: Tell,
    ) -> None:
        self._platform, self._keep, self._tell = platform, keep, tell
        self._root = platform.root
        self._live = make_url(platform.url).database or ""
        self._prefix = _prefix_of(self._live)
        self._beside = f"{self._prefix}{_BESIDE}"
        self._before_pattern = rf"{re.escape(self._prefix + _BEFORE)}{_RUN}"

    def restore(
        self,
        asked: Asked,
        beside: Beside | None = None,
        *,
        despite_golden: bool = False,
    ) -> Journal:
        """Restore a run, or go on where it broke off.

        Args:
            asked: The run.
            beside: What else is restored with it.
            despite_golden: Also where a champion does not answer as it did.

        Returns:
            The journal as it was at the end.

        Raises:
            StoreError: The run is of another platform or a newer version, is damaged, or a champion
                of it does not answer as it did: then the platform is as it was. Another restore was
                interrupted, or what was before an earlier restore of the run is still there.
            Unavailable: PostgreSQL or Redis does not answer.
        """
        with files.locked(self._root / LOCK):
            journal = interrupted(self._root)
            self._refuse(asked, journal)
            if journal is None or not journal.is_ready:
                try:
                    if beside is not None:
                        beside.stage()
                        self._require_room(asked)  # which that has taken some of
                    journal = self._prepare(asked, despite_golden=despite_golden)
                except BaseException:
                    journal = interrupted(self._root)
                    if beside is not None and (journal is None or not journal.is_ready):
                        beside.unstage()
                    raise
            self._change(journal)
            if beside is not None:
                beside.exchange(journal)
            (self._root / JOURNAL).unlink()
            return journal

    def forget(self) -> list[str]:
        """Remove what was there before restores, and what one left that was killed early.

        Returns:
            The databases and folders that are gone.

        Raises:
            StoreError: A restore was interrupted on its way to the end.
        """
        with files.locked(self._root / LOCK):
            refuse_unfinished(self._root)
            # The databases last: while one is there nobody restores that run again, whose files
            # would come upon those that are still aside.
            gone = []
            for folder in swapping.put_aside(self._root):
                shutil.rmtree(folder)
                gone.append(str(folder))
            for name in self._databases():
                if re.fullmatch(self._before_pattern, name):
                    self._drop(name)
                    gone.append(name)
            self._clear()
            return gone

    # --- before anything that lives is touched
    def _refuse(self, asked: Asked, journal: Journal | None) -> None:
        told = asked.run.manifest
        if journal is not None and (journal.sha256, journal.to) != (asked.run.sha256, asked.to):
            raise StoreError(
                f"a restore of {journal.run} was interrupted, and another is asked for "
                f"(--run {told.run}{f' --to {asked.to}' if asked.to else ''}); let the first go on "
                f"({journal.options})"
                + ("" if journal.is_ready else ", or forget it (`rul backup restore --forget`)")
            )
        if self._platform.system not in (None, told.system):
            raise StoreError(
                f"the run {told.run} is of the platform {told.system}, and this is "
                f"{self._platform.system}; restore it into an empty database and a new folder"
            )
        drill.refuse_newer(asked.run)
        snapshots.dump_of(asked.run)
        is_begun = journal is not None and journal.is_ready
        if not is_begun and self._before(told.run) in self._databases():
            raise StoreError(
                f"what was there before an earlier restore of {told.run} is still there, as the "
                f"database {self._before(told.run)}; forget it first (`rul backup restore "
                "--forget`)"
            )
        if not is_begun:
            self._require_room(asked)

    def _require_room(self, asked: Asked) -> None:
        """See that models and, where PostgreSQL's disk is this machine's, the database fit."""
        models = asked.run.of_kind(Kind.MODELS).values()
        needed = sum(3 * one.sums.plain_bytes for one in models)  # a file, staged, put in place
        # Which may be a volume of its own.
        files.require_room(self._root / "models", needed, "restoring models")
        with engine_of(self._platform.admin_url, MAINTENANCE) as admin, begin(admin) as connection:
            told = connection.execute(sa.text(_DATA_FOLDER)).scalar_one_or_none()
        if told is not None and os.access(Path(told, "postmaster.pid"), os.F_OK):
            what = "the database beside the one that lives"
            files.require_room(Path(told), asked.needed_bytes, what)

    def _prepare(self, asked: Asked, *, despite_golden: bool) -> Journal:
        told = asked.run.manifest
        journal = Journal(
            run=told.run, sha256=asked.run.sha256, to=asked.to, store=asked.store
        )  # fmt: skip
        self._write(journal)
        try:
            # Anew after a kill too: the platform has lived on since.
            journal = self._with_safety(journal)
            url = self._timed("an empty database beside", self._make_beside)
            if asked.moment is None:
                self._timed("the dump restored and compared", lambda: self._fill(asked, url))
            else:
                self._recover(asked, asked.moment, url)
            self._timed("it migrated", lambda: drill.migrate(url))
            self._timed("models and fleets staged", lambda: self._stage(asked))
            for found in self._timed("champions tried", lambda: self._try_champions(url)):
                self._tell(f"fleet {found.fleet}, {found.version}: {found.told}", None)
                if not (found.is_sound or despite_golden):
                    raise StoreError(
                        f"the champion of fleet {found.fleet} does not answer as it did: "
                        f"{found.told}; restore another run, or this one all the same with "
                        f"{journal.options} --despite-golden"
                    )
        except BaseException:
            with suppress(RulError):  # the journal stays where its database cannot be removed
                self._clear()
            self._tell(f"what lives is as it was; {journal.options} asks for the same again", None)
            raise
        journal = msgspec.structs.replace(
            journal, is_ready=True, leaving=swapping.leaving(self._root)
        )
        self._write(journal)
        return journal

    def _with_safety(self, journal: Journal) -> Journal:
        if self._is_new():
            self._tell("nothing is here yet, so no backup of it is made", None)
            return journal
        sealed = self._timed("what is here now kept", lambda: self._keep(journal.run))
        kept = sealed.manifest.run
        self._tell(f"that is the run {kept}; it comes back where it is named (--run {kept})", None)
        journal = msgspec.structs.replace(journal, safety_run=kept)
        self._write(journal)
        return journal

    def _is_new(self) -> bool:
        with engine_of(self._platform.url) as engine, begin(engine) as connection:
            tables = fingerprints.tables_of(connection)
            has_rows = any(
                connection.execute(sa.text(f"SELECT EXISTS (SELECT FROM {table})")).scalar_one()  # noqa: S608
                for table in tables
                if table.rpartition(".")[2] != VERSION_TABLE
            )
        return not has_rows and swapping.is_empty(self._root)

    def _make_beside(self) -> str:
        self._drop(self._beside)
        owner = make_url(self._platform.url).username
        with engine_of(self._platform.admin_url, MAINTENANCE) as admin:
            owned = f" OWNER {_quote(owner)}" if owner else ""
            run_alone(admin, f"CREATE DATABASE {_quote(self._beside)}{owned}")
            for statement in self._rights(admin):
                run_alone(admin, statement)
        return (
            make_url(self._platform.url)
            .set(database=self._beside)
            .render_as_string(hide_password=False)
        )

    def _rights(self, admin: sa.Engine) -> list[str]:
        """Who may connect to the live database may to the one that takes its place."""
        with begin(admin) as connection:
            rights = connection.execute(sa.text(_RIGHTS), {"name": self._live}).all()
        name = _quote(self._beside)
        return [
            *([f"REVOKE ALL ON DATABASE {name} FROM PUBLIC"] if rights else []),
            *(
                f"GRANT {each.privilege_type} ON DATABASE {name} TO "
                f"{_quote(each.grantee) if each.grantee else 'PUBLIC'}"
                for each in rights
            ),
        ]

    def _fill(self, asked: Asked, url: str) -> None:
        artefact = snapshots.dump_of(asked.run)
        drill.restore_database(asked.shelf, asked.run, artefact, url, asked.identities)
        drill.refuse_otherwise(asked.run.manifest.run, url, artefact.facts)

    def _recover(self, asked: Asked, moment: Moment, url: str) -> None:
        """Bring the database back by its log, and copy it: the live server's own log goes on."""
        started = time.monotonic()
        with recovery.served(
            asked.shelf, moment.keys, asked.identities, moment.until, moment.folder, self._tell
        ) as served:
            found = served.recovered
            self._tell("the server recovered by its log", time.monotonic() - started)
            reaches = f" until {found.reaches_at.isoformat()}" if found.reaches_at else ""
            self._tell(
                f"it has all that was committed{reaches}, from the base of {found.run}", None
            )
            source = served.url(self._live)
            with engine_of(source) as engine:
                revision = database.current_revision(engine)
            if revision is not None:
                database.refuse_newer(revision, "the database at that moment")
            facts = self._timed("its database copied", lambda: drill.copy_database(source, url))
        self._timed(
            "the copy compared",
            lambda: drill.refuse_otherwise("the database at that moment", url, facts),
        )

    def _stage(self, asked: Asked) -> None:
        for artefact in asked.run.manifest.artefacts:
            if artefact.kind is Kind.MODELS:
                models = self._root / "models"
                with drill.opened(
                    asked.shelf, asked.run, artefact, asked.identities, models
                ) as unpacked:
                    swapping.stage(unpacked, self._root)

    def _try_champions(self, url: str) -> list[golden.Golden]:
        with engine_of(url) as engine, tempfile.TemporaryDirectory() as name:
            Path(name, "models").symlink_to(self._root.absolute() / "models" / swapping.STAGED)
            return golden.check(engine, self._root, Path(name))

    # --- from here on it only goes forward, and each step can be done again
    def _change(self, journal: Journal) -> None:
        run = journal.run
        self._timed("bundles added", lambda: swapping.add(self._root, run))
        self._timed("databases exchanged", lambda: self._exchange(run))
        self._timed(
            "the other files exchanged", lambda: swapping.settle(self._root, run, journal.leaving)
        )
        self._timed("champions told to the models' folder", self._project)
        if self._platform.redis_url:
            url = self._platform.redis_url
            count = self._timed("states of units forgotten by Redis", lambda: _forget_states(url))
            self._tell(f"they were {count}; they are made again from the database's readings", None)
        swapping.unstage(self._root)

    def _exchange(self, run: str) -> None:
        if self._beside not in self._databases():
            return  # done before a kill
        before, stop = self._before(run), threading.Event()
        with engine_of(self._platform.admin_url, MAINTENANCE) as admin:
            refused: list[Exception] = []

            def end_sessions() -> None:
                names = {"names": [self._live, self._beside]}
                try:
                    while not stop.wait(_ENDING_SECONDS):
                        with begin(admin) as connection:
                            connection.execute(sa.text(_END_SESSIONS), names)
                except (ProgrammingError, RulError) as error:
                    refused.append(error)

            # The first renaming lets nobody in any more, and waits for five seconds for those who
            # are there; meanwhile they are ended.
            ender = threading.Thread(target=end_sessions)
            ender.start()
            try:
                with begin(admin) as connection:
                    for old, new in ((self._live, before), (self._beside, self._live)):
                        connection.execute(
                            sa.text(f"ALTER DATABASE {_quote(old)} RENAME TO {_quote(new)}")
                        )
            except (ProgrammingError, RulError) as error:
                failed = refused[0] if refused else error
                failed = failed.__cause__ or failed  # without what is said of it elsewhere
                reason = " ".join(str(getattr(failed, "orig", failed)).split())
                raise StoreError(
                    f"the databases {self._live} and {self._beside} cannot exchange their names: "
                    f"{reason}; stop who uses {self._live}, see that the user of "
                    "RUL_DATABASE_ADMIN_URL may rename databases and end sessions, and let the "
                    "restore go on by the same command"
                ) from error
            finally:
                stop.set()
                ender.join()

    def _project(self) -> None:
        with engine_of(self._platform.url) as engine:
            for fleet in champions.current_all(engine):
                champions.repair_projection(engine, self._root, fleet)

    # --- common
    def _before(self, run: str) -> str:
        return f"{self._prefix}{_BEFORE}{run.lower()}"

    def _databases(self) -> list[str]:
        with engine_of(self._platform.admin_url, MAINTENANCE) as admin, begin(admin) as connection:
            query = sa.text("SELECT datname FROM pg_database ORDER BY datname")
            return [str(name) for name in connection.execute(query).scalars()]

    def _drop(self, name: str) -> None:
        with engine_of(self._platform.admin_url, MAINTENANCE) as admin:
            run_alone(admin, f"DROP DATABASE IF EXISTS {_quote(name)} WITH (FORCE)")

    def _clear(self) -> None:
        """Remove what a preparation left; what lives has nothing of it."""
        self._drop(self._beside)
        swapping.unstage(self._root)
        (self._root / JOURNAL).unlink(missing_ok=True)

    def _write(self, journal: Journal) -> None:
        files.write_json(self._root / JOURNAL, journal)

    def _timed(self, what: str, step: Callable[[], Result]) -> Result:
        return timed(self._tell, what, step)


def _prefix_of(name: str) -> str:
    """What the names of databases beside one begin with: it, as far as PostgreSQL has room."""
    if len(name.encode()) <= _PREFIX_LENGTH:
        return name
    # Cut off, two databases of a server could have the same.
    distinct = hashlib.sha256(name.encode()).hexdigest()[:8]
    short = name.encode()[: _PREFIX_LENGTH - len(distinct) - 1].decode(errors="ignore")
    return f"{short}_{distinct}"


def _forget_states(url: str) -> int:
    try:
        with connect_redis(url, timeout_seconds=_REDIS_SECONDS) as client:
            return states.forget_all(client)
    except redis.RedisError as error:
        raise StoreError(
            f"Redis does not forget the states of units: {error}; see that it runs, and let the "
            "restore go on by the same command"
        ) from error


def run_alone(admin: sa.Engine, statement: str) -> None:
    """A statement that stands in no transaction.

    Raises:
        StoreError: The user may not.
    """
    try:
        with begin(admin.execution_options(isolation_level="AUTOCOMMIT")) as connection:
            connection.execute(sa.text(statement))
    except ProgrammingError as error:
        raise StoreError(
            f"{admin.url.username!r} may not: {statement}: {error.orig}; name one who may by "
            "RUL_DATABASE_ADMIN_URL"
        ) from error


_RIGHTS = """
    SELECT each.privilege_type, grantee.rolname AS grantee
    FROM pg_database, aclexplode(datacl) AS each
    LEFT JOIN pg_roles AS grantee ON grantee.oid = each.grantee
    WHERE datname = :name
"""
_END_SESSIONS = """
    SELECT pg_terminate_backend(pid) FROM pg_stat_activity
    WHERE datname = ANY(:names) AND pid <> pg_backend_pid()
"""
