"""What a store of backups gives back: to whoever has its keys, also where all else is lost.

What belongs here: where stores and keys are, and listing, looking at, restoring and exporting what
a store has, by its files and keys alone. What does not: whatever is written down in the platform's
database (``keeping``), restoring over what lives (``live``).
"""

import shutil
import time
from collections.abc import Collection, Sequence
from datetime import datetime
from pathlib import Path
from typing import Any, NamedTuple

from pydantic import Field, SecretStr

from rul_backup import archive, drill, keys, recovery, runs, telling, wal
from rul_backup import verification as checks
from rul_backup.archive import Archive
from rul_backup.live import Asked, Moment
from rul_backup.manifest import Kind
from rul_backup.recovery import Recovered
from rul_backup.remote import RemoteStore
from rul_backup.runs import Sealed
from rul_backup.stores import FolderStore, Shelf
from rul_backup.telling import Tell, timed
from rul_backup.verification import Level, Verification
from rul_core.errors import SettingsError, StoreError, Unavailable
from rul_store import files
from rul_store.backup_rows import BackupRun
from rul_store.settings import DatabaseUrl, Settings

LOCAL, OFF_SITE = "local", "off-site"
"""The stores, by the names under which their runs are written down."""
SYSTEM, RECIPIENTS, SIGNING_KEY, VERIFY_KEY, IDENTITY, ESCROW = (
    "backup_system", "backup_recipients", "backup_signing_key", "backup_verify_key",
    "backup_identity", "backup_escrow_identity",
)  # fmt: skip


class BackupSettings(Settings):
    """Where backups and their keys are."""

    backup_store: Path | None = Field(
        default=None, description="a folder; backups/ in the data root unless given"
    )
    backup_keys: Path | None = Field(
        default=None,
        description="the folder of key files that `rul backup keys` makes; backup-keys/ in the "
        "data root unless given",
    )
    backup_scratch: Path | None = Field(
        default=None,
        description="the folder in which drills restore; the system's for temporary files unless "
        "given",
    )
    backup_offsite: str | None = Field(
        default=None, description="s3://bucket/prefix or az://container/prefix"
    )
    backup_offsite_options: SecretStr = Field(
        default=SecretStr(""),
        description="JSON: endpoint, region, access_key_id, secret_access_key and the like",
    )
    backup_offsite_days: int | None = Field(
        default=None,
        gt=0,
        description="for how many days runs stay beyond the machine, where a rule of the store "
        "removes objects that are older than these and a week; for ever unless given",
    )
    backup_weeks: int = Field(
        default=0, ge=0, description="for how many weeks the newest run of each week stays"
    )
    backup_months: int = Field(
        default=0, ge=0, description="for how many months the newest run of each month stays"
    )
    backup_share: float = Field(
        default=0.1,
        gt=0,
        le=1,
        description="of the time, how much a scheduled backup may be at work; it rests in between, "
        "so that what serves beside it goes on",
    )
    backup_replication_url: SecretStr | None = Field(
        default=None,
        description="postgresql://… of a user who may replicate; with it runs keep a base every "
        "day, and `rul backup archive` receives the log",
    )
    backup_dagster_url: DatabaseUrl | None = Field(
        default=None,
        description="postgresql://… of Dagster's database, of a user who reads all of it; with it "
        "runs keep a dump of it every week",
    )
    backup_stack: Path | None = Field(
        default=None,
        description="a folder with configuration/, dagster_logs/, grafana/ and prometheus/ of the "
        "container stack; with it runs keep these every week",
    )


class ReadingKeys(NamedTuple):
    """Files of the keys by which backups are looked at and read."""

    verify_key: Path
    identity: Path

    def verify_keys(self) -> tuple[Any, ...]:
        """By which manifests are checked."""
        return keys.verify_keys(self.verify_key)

    def identities(self) -> Sequence[Any]:
        """By which artefacts are decrypted."""
        return keys.identities(self.identity)


class StoreReader:
    """A store as whoever has its keys reads it, also where nothing is left of the platform.

    Args:
        shelf: The store.
        reading_keys: To it.
        tell: Told of the steps, of what is chosen, and of what is passed over.
    """

    def __init__(
        self, shelf: Shelf, reading_keys: ReadingKeys, tell: Tell = telling.nobody
    ) -> None:
        self.shelf, self._keys, self._tell = shelf, reading_keys, tell
        self._only = shelf.run if isinstance(shelf, Archive) else None
        self._since = shelf.since if isinstance(shelf, Archive) else None

    def there(self) -> list[Sealed]:
        """The runs that it has, the oldest first; an archive has one.

        Raises:
            StoreError: A manifest is damaged, in an archive that of its run; names it.
        """
        if self._only is not None:
            return [self.find(self._only)]
        return runs.there(self.shelf, self._keys.verify_keys())

    def find(self, run: str | None, *, to_restore: bool = False) -> Sealed:
        """A run by its name or number (``7`` or ``manifests/00000007``), or the newest.

        It is found also where manifests of others are damaged.

        Args:
            run: Its name or number.
            to_restore: The newest is not one that was made before a restore: what it has was to be
                got rid of, and that restore may have failed. Each that is passed over is told.

        Raises:
            StoreError: There is none, or its manifest is damaged; names it.
        """
        names, verify_keys = runs.names_there(self.shelf), self._keys.verify_keys()
        if not names:
            raise StoreError(f"{self.shelf} has no backup yet; `rul backup now` makes one")
        wanted, newest, damaged = run or self._only, "", ""
        for name in reversed(names):
            try:
                sealed = runs.read(self.shelf, name, verify_keys)
            except Unavailable:
                raise
            except StoreError as error:
                if wanted is None:
                    raise StoreError(f"{error}; name an older run (--run)") from error
                damaged += f"; {error}"
                continue
            told = sealed.manifest
            if self._only not in (None, told.run):
                continue
            if wanted is None and to_restore and self._passes_over(sealed):
                continue
            if wanted in (None, told.run) or _number(wanted) == told.number:
                return sealed
            newest = newest or f"; the newest is {told.run} (`rul backup list`)"
        if wanted is None:
            raise StoreError(
                f"{self.shelf} has no runs but such as were made before restores; name one (--run)"
            )
        raise StoreError(f"{self.shelf} has no run {wanted!r}{newest}{damaged}")

    def verify(
        self,
        level: Level,
        now: datetime,
        known: Collection[BackupRun] = (),
        folder: Path | None = None,
    ) -> Verification:
        """Look at every object, and hold the chain against what is known elsewhere."""
        return checks.verify(
            self.shelf,
            self._keys.verify_keys(),
            level,
            now=now,
            known=known,
            identities=self._keys.identities() if level >= Level.CONTENT else (),
            only=self._only,
            since=self._since,
            folder=folder,
        )

    def asked(self, run: str | None, moment: Moment | None = None) -> Asked:
        """What shall be restored over a live platform: a run, or a moment.

        Models of a moment are of the first run after it, which has all that there were; or the
        newest, where there is none yet.
        """
        after = None
        if run is None and moment is not None and moment.until is not None:
            # Also one that was made before a restore: the moment is of before that too.
            until = moment.until
            after = next(
                (one for one in self._readable() if one.manifest.started_at >= until), None
            )
        sealed = after or self.find(run, to_restore=True)
        what = "restores" if moment is None else "models and fleets come from"
        self._tell(f"{what} the run {_named(sealed)}", None)
        return Asked(self.shelf, sealed, self._keys.identities(), moment)

    def moment(self, until: datetime | None, folder: Path | None) -> Moment:
        """A moment to which PostgreSQL's log leads; none for all that is archived."""
        return Moment(until, self._keys.verify_keys(), folder)

    def restore(self, run: str | None, url: str, into: Path) -> Sealed:
        """Bring a run back: its database into an empty one, all else into a new folder.

        The database is compared with what was kept, and migrated; then champions are tried. Asked
        again after a kill it goes on where the database is back and the folder is not.

        Raises:
            StoreError: There is no such run, it is of a newer version, a target is not empty, there
                is too little room for the files, or the run is damaged. A database is restored
                wholly or not at all. Or all is restored, and a champion does not answer as it did.
        """
        sealed, identities = self.find(run, to_restore=True), self._keys.identities()
        self._tell(f"restores the run {_named(sealed)}", None)
        drill.refuse_newer(sealed)
        drill.refuse_files(sealed, into)
        halves = files.halves_of(into)  # else what has the run's content is no concern of ours
        is_back = bool(halves) and drill.is_back(sealed, url)
        if not is_back:
            drill.refuse_content(url)

        def restore_databases() -> None:
            if is_back:
                self._tell("its database is back already", None)
            for artefact in sealed.manifest.artefacts:
                if artefact.kind is Kind.POSTGRES and not is_back:
                    started = time.monotonic()
                    drill.restore_database(self.shelf, sealed, artefact, url, identities)
                    drill.refuse_otherwise(sealed.manifest.run, url, artefact.facts)
                    self._tell(f"{artefact.name} restored and compared", time.monotonic() - started)
            timed(self._tell, "it migrated", lambda: drill.migrate(url))

        # In this order, so that damaged files leave the database as empty as it was.
        drill.restore_files(
            self.shelf, sealed, into, identities, then=restore_databases, tell=self._tell
        )
        for half in halves:
            shutil.rmtree(half)
        for found in timed(self._tell, "champions tried", lambda: drill.try_champions(url, into)):
            self._tell(f"fleet {found.fleet}, {found.version}: {found.told}", None)
            if not found.is_sound:
                raise StoreError(
                    f"the run {sealed.manifest.run} is restored, and the champion of fleet "
                    f"{found.fleet} does not answer as it did: {found.told}; restore another run"
                )
        return sealed

    def restore_stack(self, run: str | None, into: Path) -> Sealed | None:
        """Bring what the container stack had back into a new folder.

        Its files lie there by where they came from, Dagster's database as ``dagster.dump``.

        Returns:
            The run; none where it kept nothing of a stack, and then there is no folder.

        Raises:
            StoreError: There is no such run, the folder is there, there is too little room, or
                something is damaged; then there is no folder.
        """
        sealed = self.find(run, to_restore=True)
        if not any(one.kind in drill.OF_THE_STACK for one in sealed.manifest.artefacts):
            return None
        identities = self._keys.identities()
        drill.restore_files(
            self.shelf, sealed, into, identities, drill.OF_THE_STACK, tell=self._tell
        )
        return sealed

    def recover(self, until: datetime | None, into: Path) -> Recovered:
        """Bring PostgreSQL's data folder back as it was at a moment; see ``recovery.recover``."""
        verify_keys, identities = self._keys.verify_keys(), self._keys.identities()
        return recovery.recover(self.shelf, verify_keys, identities, until, into, tell=self._tell)

    def export(
        self,
        run: str | None,
        target: Path,
        *,
        with_log: bool = False,
        before: datetime | None = None,
    ) -> Sealed:
        """Write a run, with all that restoring it needs but for the keys, to one new file.

        Args:
            run: Its name or number; the newest unless given.
            target: The file.
            with_log: Also PostgreSQL's log from the run's base on; unless a run is given, of the
                newest for which it is there.
            before: The log begins with a base of before this moment, so that it leads there; the
                run is the first after it, where there is one, for the models that were then.

        Raises:
            StoreError: There is no such run, the file is there, there is too little room, or
                something is damaged; then there is no file.
        """
        since = self._with_log(run, before) if with_log else None
        sealed = since or self.find(run, to_restore=True)
        if since and run is None and before is not None:
            sealed = self._first_after(before, since)
        archive.export(
            self.shelf,
            sealed,
            self._keys.verify_keys(),
            target,
            with_log=with_log,
            since=None if since and wal.start_of(since) == wal.start_of(sealed) else since,
            tell=self._tell,
        )
        return sealed

    def _first_after(self, moment: datetime, since: Sealed) -> Sealed:
        """The first run after a moment, which has all models that there were; else a run before it.

        As over what lives (``asked``); here it must also have its own part of the log.
        """
        after = next((one for one in self._readable() if one.manifest.started_at >= moment), None)
        if after is None:
            return since
        log, _ = wal.from_base(self.shelf, self._keys.verify_keys(), [after])
        if not wal.leads_on(after, log):
            self._tell(
                f"models and fleets come from {_named(since)}: of the next run, "
                f"{after.manifest.run}, the log is not there yet",
                None,
            )
            return since
        return after

    def _readable(self) -> list[Sealed]:
        """The runs that it has, the oldest first, but for those whose manifests are damaged."""
        keys = self._keys.verify_keys()
        found = runs.readable(self.shelf, runs.names_there(self.shelf), keys, self._tell)
        return [one for one in found if self._only in (None, one.manifest.run)]

    def _with_log(self, run: str | None, before: datetime | None) -> Sealed:
        """The run of a name, or the newest, from whose base the log leads on."""
        keys = self._keys.verify_keys()
        asked = [self.find(run)] if run is not None else [*reversed(self._readable())]
        logs: dict[wal.Start, tuple[list[wal.Noted], str | None]] = {}  # runs of a day have one
        for sealed in asked:
            start = wal.start_of(sealed)
            if start is None or (before is not None and start.ended_at > before):
                continue
            if run is None and self._passes_over(sealed):
                continue
            if start not in logs:
                logs[start] = wal.from_base(self.shelf, keys, [sealed])
            log, problem = logs[start]
            # By its name it is meant also where the log does not lead as far as it knows of it.
            if wal.leads_on(sealed, log) or (
                run is not None and problem and start.notes <= {one.object for one in log}
            ):
                return sealed
        if before is not None and (earliest := self._earliest()) is not None:
            which = f"base of {run}" if run is not None else "base"
            raise StoreError(
                f"{self.shelf} has no {which} from before {before.isoformat()} from which the log "
                f"leads on; the earliest moment is {earliest.isoformat()}"
            )
        problems = "".join(f"; {problem}" for _, problem in logs.values() if problem)
        which = f"the base of {run}" if run is not None else "any base"
        raise StoreError(
            f"{self.shelf} has no log that leads on from {which}{problems}; export without the "
            "log, or name a run whose base it has (`rul backup archive` seals the log)"
        )

    def _earliest(self) -> datetime | None:
        """The first moment to which bases and the log lead; none where none does."""
        noted = {*wal.names(self.shelf)}
        return min(
            (start.ended_at for start in wal.starts(self._readable()) if start.notes <= noted),
            default=None,
        )

    def _passes_over(self, sealed: Sealed) -> bool:
        """Whether nobody who names no run means this one; tells why."""
        told = sealed.manifest
        if told.made_before_restore_of:
            self._tell(
                f"the run {told.run} was made before a restore of {told.made_before_restore_of}, "
                f"and is passed over (--run {told.run} names it)",
                None,
            )
        return bool(told.made_before_restore_of)


def _named(sealed: Sealed) -> str:
    told = sealed.manifest
    return f"{told.run}, number {told.number}, of {told.started_at:%Y-%m-%d %H:%M} UTC"


def _number(run: str | None) -> int | None:
    last = (run or "").rpartition("/")[2]
    return int(last) if last.isdecimal() else None


def reading_keys_of(
    root: Path,
    settings: BackupSettings,
    *,
    identity: Path | None = None,
    verify_key: Path | None = None,
) -> ReadingKeys:
    """The keys of a platform's folder of keys, or those that are given instead."""
    folder = keys_folder_of(root, settings)
    return ReadingKeys(verify_key or folder / VERIFY_KEY, identity or folder / IDENTITY)


def shelf_of(root: Path, settings: BackupSettings, store: str) -> Shelf:
    """A store by its name, an archive or a folder of backups by its path.

    Raises:
        SettingsError: It is the one beyond the machine, and nobody has said where that is.
        StoreError: There is no such file or folder, or the file is no archive.
    """
    if store == LOCAL:
        return local_store_of(root, settings)
    if store == OFF_SITE:
        return remote_store_of(settings)
    path = Path(store)
    if path.is_dir():
        return FolderStore(path)
    return Archive(path)


def keys_folder_of(root: Path, settings: BackupSettings) -> Path:
    """The platform's folder of keys."""
    return settings.backup_keys or root / "backup-keys"


def local_store_of(root: Path, settings: BackupSettings) -> FolderStore:
    """The store on this machine."""
    return FolderStore(settings.backup_store or root / "backups")


def remote_store_of(settings: BackupSettings) -> RemoteStore:
    """The store beyond the machine.

    Raises:
        SettingsError: Nobody has said where that is, or how it is reached.
    """
    if settings.backup_offsite is None:
        raise SettingsError(
            "RUL_BACKUP_OFFSITE is not set; give s3://bucket/prefix or "
            "az://container/prefix, and the key in RUL_BACKUP_OFFSITE_OPTIONS"
        )
    options = settings.backup_offsite_options.get_secret_value()
    return RemoteStore.at(settings.backup_offsite, options)
