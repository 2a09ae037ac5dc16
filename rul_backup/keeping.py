"""Backups of one platform, as people and schedules ask for them.

What belongs here: made, looked at, proved, let go, each as one step that is written down. What does
not: how each is done (the other modules), what a store gives back where nothing else is left
(``reading``), who asks and how it is shown (``rul_cli``).
"""

import math
import time
from collections.abc import Callable, Collection, Sequence
from datetime import datetime, timedelta
from importlib.metadata import version
from pathlib import Path
from typing import Any, NamedTuple

import sqlalchemy as sa

from rul_backup import (
    adoption,
    drill,
    keys,
    live,
    mending,
    offsite,
    programs,
    recovery,
    retention,
    runs,
    snapshots,
    stack,
    telling,
    verification,
    wal,
)
from rul_backup.archiving import Archiver
from rul_backup.drill import Restored
from rul_backup.golden import Golden
from rul_backup.live import Asked
from rul_backup.manifest import Artefact, Kind
from rul_backup.mending import Mended
from rul_backup.offsite import Brought, Spoilt
from rul_backup.reading import (
    ESCROW,
    IDENTITY,
    LOCAL,
    OFF_SITE,
    RECIPIENTS,
    SIGNING_KEY,
    SYSTEM,
    VERIFY_KEY,
    BackupSettings,
    StoreReader,
    keys_folder_of,
    local_store_of,
    reading_keys_of,
    remote_store_of,
)
from rul_backup.remote import RemoteStore
from rul_backup.retention import Confirmed, Line, Plan, Policy, There
from rul_backup.runs import Maker, Run, Sealed, number_of
from rul_backup.stores import FolderStore, Shelf
from rul_backup.streams import Pace
from rul_backup.telling import Tell
from rul_backup.verification import Finding, Level, Reread, Verification
from rul_core.errors import SettingsError, StoreError, Unavailable
from rul_store import backup_rows, database
from rul_store.backup_rows import BackupRun, ClockConfirmed, RestoreProof

ROOM = 2.0
"""A store must have room for so many times what the newest run took."""


class Found(NamedTuple):
    """A run that the store has."""

    sealed: Sealed
    proof: RestoreProof | None
    """The last, where there was any."""


class Proved(NamedTuple):
    """What a drill came to."""

    sealed: Sealed
    proof: RestoreProof
    champions: tuple[Golden, ...]
    """What was found of each fleet's; none where there is none, or the database differs."""
    log_reaches_at: datetime | None
    """Until when the log leads, which was tried too; none where there is none of a base yet."""


class LookedInto(NamedTuple):
    """What new runs kept, decrypted and read to its end."""

    runs: int
    until: int
    """The number of the newest."""
    left: int
    """Runs for which there was no time."""
    unsound: list[int]
    """Numbers of those in which something was found."""
    findings: list[Finding]


class Backups:
    """Backups of a platform in the folder of this machine.

    Args:
        root: The data root.
        settings: Where backups and keys are.
        engine: The platform's database; runs are written down there too.
        redis_url: Its Redis, where it has one.
        pace: How fast what is kept is read; without rests unless given.
    """

    def __init__(
        self,
        root: Path,
        settings: BackupSettings,
        engine: sa.Engine,
        redis_url: str | None,
        pace: Pace | None = None,
    ) -> None:
        self._root, self._engine, self._redis_url = root, engine, redis_url
        self._pace = pace or Pace()
        self.left_out: dict[Kind, str] = {}
        """What the run that was made last lacks of the container stack, and why."""
        self._settings = settings
        self.keys_folder = keys_folder_of(root, settings)
        self.store = local_store_of(root, settings)
        url = settings.backup_replication_url
        self._replication_url = url.get_secret_value() if url else None
        url = settings.backup_dagster_url
        self._dagster_url = url.get_secret_value() if url else None

    @property
    def kinds(self) -> tuple[Kind, ...]:
        """What a run keeps; the database first, so that whatever it names is kept after it."""
        left_out = {
            *(() if self._redis_url else (Kind.REDIS,)),
            *(() if self._replication_url else (Kind.BASE,)),
            *(() if self._dagster_url else (Kind.DAGSTER,)),
            *(() if self._settings.backup_stack else (Kind.STACK,)),
        }
        return tuple(kind for kind in Kind if kind not in left_out)

    def make(self, now: datetime, *, before_restore_of: str = "") -> Sealed:
        """Keep all that the platform has.

        What the container stack itself has is no reason to keep nothing: where it cannot be kept,
        ``left_out`` says why.

        Args:
            now: When it begins.
            before_restore_of: The run that is about to take the place of it all, where one is.

        Raises:
            StoreError: There is too little room, or something cannot be read or written; then there
                is no backup, and nothing of it counts as one.
            SettingsError: A key or program is missing.
            Unavailable: PostgreSQL or Redis does not answer.
        """
        run, self.left_out = self.begin(now, before_restore_of=before_restore_of), {}
        try:
            for kind in self.kinds:
                try:
                    self.keep(run, kind)
                except StoreError as error:
                    if kind not in drill.OF_THE_STACK:
                        raise
                    self.left_out[kind] = str(error)
            return self.seal(run)
        finally:
            run.discard()

    def begin(self, now: datetime, *, before_restore_of: str = "") -> Run:
        """A new run, for which there is room; see ``make``.

        Raises:
            StoreError: There is too little; or a restore has not come to its end.
            SettingsError: A key is missing.
            Unavailable: There was no run yet, and PostgreSQL does not say how much it has.
        """
        live.refuse_unfinished(self._root)
        maker = self._maker()
        self._refuse_where_it_does_not_fit()
        return Run(self.store, maker, now, self._pace.anew(), before_restore_of=before_restore_of)

    def keep(self, run: Run, kind: Kind) -> Artefact:
        """Keep one thing.

        Raises:
            StoreError: It cannot be read or written.
            SettingsError: Its address or program is missing.
            Unavailable: PostgreSQL or Redis does not answer.
        """
        match kind:
            case Kind.POSTGRES:
                return snapshots.keep_database(run, self._url)
            case Kind.REDIS:
                if not self._redis_url:
                    raise SettingsError("RUL_REDIS_URL is not set; set it, or keep no Redis")
                return snapshots.keep_redis(run, self._redis_url)
            case Kind.MODELS:
                earlier = runs.newest_there(self.store, self._verify_keys())
                return snapshots.keep_models(run, self._root, earlier)
            case Kind.BASE:
                return self._keep_base(run)
            case Kind.DAGSTER:
                if not self._dagster_url:
                    raise SettingsError("RUL_BACKUP_DAGSTER_URL is not set; set it, or keep none")
                if kept := self._of_this_week(run, kind):
                    return kept
                return snapshots.keep_database(
                    run, self._dagster_url, snapshots.DAGSTER, Kind.DAGSTER
                )
            case Kind.STACK:
                folder = self._settings.backup_stack
                if not folder:
                    raise SettingsError("RUL_BACKUP_STACK is not set; set it, or keep no stack")
                return self._of_this_week(run, kind) or stack.keep_stack(run, folder)

    def seal(self, run: Run) -> Sealed:
        """Write the run's manifest, and write down that there is one.

        What was not kept anew is taken over from the newest run, but for the database, of whose
        moment a run is. Of the container stack it may lack what is older than a week there.

        Raises:
            StoreError: It lacks the database, or what no earlier run has, or cannot be written; or
                a restore has not come to its end.
            Unavailable: PostgreSQL does not answer.
        """
        live.refuse_unfinished(self._root)
        verify_keys = self._verify_keys()
        earlier = runs.newest_there(self.store, verify_keys)
        if Kind.POSTGRES not in run.kinds:
            raise StoreError(
                f"the run {run.name} has no dump of the database, and an earlier one is of an "
                "earlier moment; make all of the backup (`rul backup now`, or the job back_up)"
            )
        for kind in [kind for kind in self.kinds if kind not in run.kinds]:
            if kind in drill.OF_THE_STACK:
                self._of_this_week(run, kind)
                continue
            known = (
                [one for one in earlier.manifest.artefacts if one.kind is kind] if earlier else []
            )
            if earlier is None or not known:
                raise StoreError(f"the run {run.name} has no {kind} and neither had one before it")
            for artefact in known:
                run.take_over(artefact, earlier)
        log, ended = wal.heads(self.store, verify_keys), _later(run.started_at)
        sealed = run.seal(self._versions(), verify_keys, ended, log, self._known())
        self.note()  # those of before too: a run that was killed at this point left its manifest
        return sealed

    def _versions(self) -> dict[str, str]:
        with database.begin(self._engine) as connection:
            postgresql = connection.execute(sa.text("SHOW server_version")).scalar_one()
            server = programs.major_version(connection)
        return {
            "rul": version("rul-platform"),
            "schema": database.current_revision(self._engine) or "none",
            "postgresql": postgresql,
            "pg_dump": programs.version_of("pg_dump", server),
        }

    @property
    def system(self) -> str | None:
        """The platform's name, where its backups have keys here."""
        path = self.keys_folder / SYSTEM
        return path.read_text().strip() if path.exists() else None

    def note(self) -> None:
        """Write runs that are or were here down, and that the database does not know.

        A restored one knows of fewer. Of a line that contradicts it none is written down, and of
        none where backups have no keys here.

        Raises:
            Unavailable: PostgreSQL does not answer.
        """
        names = runs.names(self.store)
        if not names or self.system is None:
            return
        verify_keys = self._verify_keys()
        known = {runs.manifest_of(one.number): one.sha256 for one in self._known()}
        common = (name for name in reversed(names) if name in known)
        whole = (one for name in common for one in runs.readable(self.store, [name], verify_keys))
        newest = next(whole, None)
        if newest is not None and newest.sha256 != known[newest.object]:
            return
        fresh = [name for name in names if name not in known]
        line = runs.readable(self.store, fresh, verify_keys)
        backup_rows.record(self._engine, LOCAL, [one.known for one in line])

    def adopt(self, asked: Asked) -> int:
        """Go on here with the line of runs that one to be restored stands in; see ``adoption``.

        Where there is another line here, or none yet, that is done beside, until the exchange.

        Returns:
            How many manifests there are more; none where this platform is another, or the store is
            the one here.

        Raises:
            StoreError: Something is damaged, or cannot be written.
            SettingsError: This platform cannot sign.
        """
        if self.system != asked.run.manifest.system or self._is_here(asked.shelf):
            return 0
        keys, key = self._verify_keys(), self._maker().signing_key
        own = next(iter(runs.readable(self.store, runs.names(self.store)[-1:], keys)), None)
        return adoption.adopt_or_stage(
            self.store, asked.shelf, asked.run, keys, key,
            spare_bytes=self._needed_bytes(own),  # what lives is kept before
        )  # fmt: skip

    def exchange(self, run: str) -> Path | None:
        """Let the line that was made ready beside the one here take its place.

        Args:
            run: By which the folder is called into which the one here goes.

        Returns:
            That folder; none where no line was made ready.

        Raises:
            StoreError: It cannot be moved.
        """
        return adoption.exchange(self.store, run)

    def unstage(self) -> None:
        """Remove the line beside the one here.

        Raises:
            StoreError: It cannot be removed.
        """
        adoption.unstage(self.store)

    @property
    def aside(self) -> list[Path]:
        """Lines whose place another took: nobody but a person removes them."""
        return adoption.aside(self.store)

    def give_up_newer(self, asked: Asked) -> list[BackupRun]:
        """Give up the runs after a line that was adopted: they were lost with their machine.

        Where the line here is another than that of the store that was restored from, none is.

        Raises:
            StoreError: A manifest is damaged, or it cannot be written.
            Unavailable: PostgreSQL does not answer.
        """
        if self.system != asked.run.manifest.system or self._is_here(asked.shelf):
            return []
        keys = self._verify_keys()
        newest, adopted = (runs.newest(one, keys) for one in (self.store, asked.shelf))
        if newest is None or newest != adopted:
            return []
        key, beyond = self._maker().signing_key, backup_rows.known(self._engine, OFF_SITE)
        return mending.give_up_newer(self.store, keys, self._known(), key, beyond)

    def _is_here(self, shelf: Shelf) -> bool:
        here = self.store.root.resolve()
        return isinstance(shelf, FolderStore) and shelf.root.resolve() == here

    def to_mend(self, *, lost_beyond: bool = False) -> list[Mended]:
        """What becomes of manifests that cannot be read here; see ``mending``.

        Args:
            lost_beyond: Somebody says that what is not beyond the machine any more is lost.

        Raises:
            StoreError: Here is another line than the one that is known; or the store beyond the
                machine has another, or refuses; or a restore has not come to its end.
            Unavailable: That, or PostgreSQL, does not answer.
        """
        live.refuse_unfinished(self._root)
        other = remote_store_of(self._settings) if self.goes_off_site else None
        beyond = backup_rows.known(self._engine, OFF_SITE)
        return mending.plan(
            self.store, self._verify_keys(), self._known(), other, beyond, lost_beyond=lost_beyond
        )

    def mend(self, found: Collection[Mended]) -> None:
        """Bring back and give up what ``to_mend`` gave.

        Raises:
            StoreError: It cannot be written, or something came there meanwhile.
        """
        mending.mend(self.store, self._verify_keys(), found, self._maker().signing_key)

    @property
    def goes_off_site(self) -> bool:
        """Whether there is a store beyond the machine."""
        return self._settings.backup_offsite is not None

    def shelf(self, store: str) -> Shelf:
        """A store by its name.

        Raises:
            SettingsError: It is the one beyond the machine, and nobody has said where that is.
        """
        return self.store if store == LOCAL else remote_store_of(self._settings)

    def bring(self) -> Brought:
        """Bring what the store beyond the machine lacks, and write down what it has.

        Raises:
            SettingsError: Nobody has said where that is, or how it is reached.
            Spoilt: Something is damaged here; all else was brought.
            StoreError: It refuses, or has another platform's backups; or a restore has not come to
                its end.
            Unavailable: It does not answer.
        """
        live.refuse_unfinished(self._root)
        remote, verify_keys = remote_store_of(self._settings), self._verify_keys()
        try:
            brought = offsite.bring(self.store, remote, verify_keys)
        except Spoilt:
            self._write_down_beyond(remote)
            raise
        self._write_down_beyond(remote)
        return brought

    def _write_down_beyond(self, remote: RemoteStore) -> None:
        """Runs that are there, also of a copying that was killed before it wrote them down."""
        there = {*runs.names(remote)}
        both = [name for name in runs.names(self.store) if name in there]
        every = runs.readable(self.store, both, self._verify_keys())
        backup_rows.record(self._engine, OFF_SITE, [one.known for one in every])

    def there(self, store: str = LOCAL) -> list[Found]:
        """The runs that a store has, the oldest first.

        Raises:
            StoreError: A manifest is damaged; names it.
        """
        proofs = self._proofs(store)
        return [
            Found(sealed, proofs.get(sealed.manifest.number))
            for sealed in self._reader(store).there()
        ]

    def verify(self, level: Level, now: datetime, store: str = LOCAL) -> Verification:
        """Look at every object of a store."""
        known = backup_rows.known(self._engine, store)
        return self._reader(store).verify(level, now, known, self._settings.backup_scratch)

    def look_into_new(
        self, after: int, again: Collection[int] = (), seconds: float = math.inf
    ) -> LookedInto:
        """Decrypt what runs here kept that nobody looked into yet, and read it to its end.

        Args:
            after: The number of the newest run that was looked into.
            again: Numbers of those in which something was found, until they are gone.
            seconds: No run is begun later; at least one is looked into.

        Raises:
            SettingsError: A key is missing.
            StoreError: ``RUL_BACKUP_SCRATCH`` is too small.
        """
        verify_keys, identities = self._verify_keys(), self._identities()
        every = runs.readable(self.store, runs.names_there(self.store), verify_keys)
        # Another line may be here than the one of which somebody knows how far he came.
        after = min(after, max([one.manifest.number for one in every], default=0))
        asked = [one for one in every if (number := one.manifest.number) > after or number in again]
        started, findings = time.monotonic(), []
        unsound = {one.manifest.number for one in asked} & {*again}
        for count, one in enumerate(asked):
            if count and time.monotonic() - started > seconds:
                return LookedInto(count, after, len(asked) - count, sorted(unsound), findings)
            number = one.manifest.number
            found = verification.look_into(
                self.store, one, identities, self._settings.backup_scratch
            )
            unsound = unsound | {number} if found else unsound - {number}
            findings, after = [*findings, *found], max(after, number)
        return LookedInto(len(asked), after, 0, sorted(unsound), findings)

    def read_again(self, share: float, after: str, again: Collection[str]) -> Reread:
        """Read a part of what is beyond the machine; see ``verification.read_again``.

        Raises:
            SettingsError: Nobody has said where that is, or how it is reached.
            Unavailable: It does not answer.
        """
        remote = remote_store_of(self._settings)
        return verification.read_again(remote, self._verify_keys(), share, after=after, again=again)

    def prove(
        self,
        run: str | None,
        now: datetime,
        store: str = LOCAL,
        tell: Tell = telling.nobody,
    ) -> Proved:
        """Restore a run where nothing is lost by it, compare, and write down what was found.

        Where it promises a base, all that the log leads to is recovered too.

        Args:
            run: Which; the newest unless given.
            now: The moment of the drill.
            store: From which store alone.
            tell: Told of the steps.

        Raises:
            StoreError: There is no such run, or it cannot be restored at all.
        """
        sealed, shelf = self.find(run, store), self.shelf(store)
        started = time.monotonic()
        try:
            found, reaches_at = self._tried(sealed, shelf, tell)
        except Unavailable:
            raise
        except StoreError as error:  # told as a drill that failed, or the last that passed stands
            seconds = time.monotonic() - started
            told = (f"it cannot be restored: {error}",)
            self._write_down(sealed, store, now, seconds, told)
            raise
        seconds = sum(one.seconds for one in found)
        told = tuple(told for one in found for told in one.differences)
        proof = self._write_down(sealed, store, now, seconds, told, reaches_at)
        champions = tuple(each for one in found for each in one.champions)
        return Proved(sealed, proof, champions, reaches_at)

    def _tried(
        self, sealed: Sealed, shelf: Shelf, tell: Tell
    ) -> tuple[list[Restored], datetime | None]:
        """All that a drill tries of a run, and until when the log leads."""
        identities, folder = self._identities(), self._settings.backup_scratch
        found = drill.prove_databases(shelf, sealed, identities, folder, tell)
        found += drill.prove_redis(shelf, sealed, identities, folder, tell)
        found += drill.prove_stack(shelf, sealed, identities, folder, tell)
        reaches_at, verify_keys = None, self._verify_keys()
        if snapshots.base_of(sealed) and recovery.has_log(shelf, verify_keys):
            name = self._engine.url.database or ""
            recovered, reaches_at = recovery.prove(
                shelf, verify_keys, identities, sealed, name, folder, tell
            )
            found.append(recovered)
        return found, reaches_at

    def _write_down(
        self,
        sealed: Sealed,
        store: str,
        now: datetime,
        seconds: float,
        told: tuple[str, ...],
        log_reaches_at: datetime | None = None,
    ) -> RestoreProof:
        proof = RestoreProof(
            number=sealed.manifest.number,
            proven_at=now,
            seconds=seconds,
            differences=told,
            log_reaches_at=log_reaches_at,
            recovery_point_seconds=backup_rows.recovery_point_seconds(
                now, sealed.manifest.started_at, log_reaches_at
            ),
        )
        backup_rows.record_proof(self._engine, store, proof)
        return proof

    def policy(self, weeks: int | None = None, months: int | None = None) -> Policy:
        """For how long runs stay here.

        Args:
            weeks: For how many the newest of each week does; as the settings say unless given.
            months: The same of months.
        """
        settings = self._settings
        return Policy(
            weekly_for=timedelta(weeks=settings.backup_weeks if weeks is None else weeks),
            monthly_for=timedelta(days=31 * (settings.backup_months if months is None else months)),
        )

    def plan(self, policy: Policy, now: datetime, *, clock_is_right: bool = False) -> Plan:
        """Which runs may go. It proves a run too that a drill restored it from beyond the machine.

        Args:
            policy: For how long they stay.
            now: By this machine's clock.
            clock_is_right: As if somebody had confirmed it at this moment.

        Raises:
            StoreError: The clock jumped, or no run came for a day, and nobody has confirmed the
                clock since.
        """
        there = self._reader(LOCAL).there()
        line = self._line(now, clock_is_right=clock_is_right)
        return retention.plan(self._rated(there, LOCAL, OFF_SITE), policy, now, line)

    def confirm_clock(self, now: datetime) -> None:
        """Write down that the clock is right, for whoever lets runs go from now on.

        Raises:
            StoreError: There is no run yet.
        """
        confirmed = self._line(now, clock_is_right=True).confirmed
        if confirmed is None:
            raise StoreError(f"{self.store} has no backup yet; `rul backup now` makes one")
        told = ClockConfirmed(number=confirmed.number, confirmed_at=confirmed.at)
        backup_rows.confirm_clock(self._engine, told)

    def _line(self, now: datetime, *, clock_is_right: bool = False) -> Line:
        """When every run ended: their manifests stay, also of those that are beyond the machine.

        Of one whose manifest was given up the database knows it.
        """
        keys = self._verify_keys()
        every = runs.readable(self.store, runs.names(self.store), keys)
        ended = {one.manifest.number: one.manifest.finished_at for one in every}
        words = {number_of(name) for name in runs.words_or_why(self.store, keys)}
        lost = {one.number: one.finished_at for one in self._known() if one.number in words}
        ended = sorted((lost | ended).items())
        if clock_is_right and ended:
            return Line(ended, Confirmed(max(ended)[0], now))
        known = backup_rows.clock_confirmed(self._engine)
        return Line(ended, Confirmed(known.number, known.confirmed_at) if known else None)

    def _rated(self, there: Sequence[Sealed], *stores: str) -> list[There]:
        """Runs by what retention asks; proven are those that a drill from such a store restored."""
        proven = {
            number
            for store in stores
            for number, proof in self._proofs(store).items()
            if not proof.differences
        }
        return [
            There(told.number, told.finished_at, proven=told.number in proven)
            for told in (sealed.manifest for sealed in there)
        ]

    def left_behind(self, now: datetime) -> list[str]:
        """Objects that no run promises: of runs that were killed while they were made or went.

        Segments of PostgreSQL's log too, which no base that stays needs.
        """
        verify_keys = self._verify_keys()
        return [
            *runs.left_behind(self.store, verify_keys, now, self._known()),
            *wal.left_behind(self.store, verify_keys),
        ]

    def let_go(self, numbers: Collection[int], now: datetime) -> list[str]:
        """Let runs go, and remove what no other promises; give the objects that went.

        Raises:
            StoreError: A manifest is damaged or missing, or a restore has not come to its end; then
                nothing goes.
        """
        live.refuse_unfinished(self._root)
        key, verify_keys = self._maker().signing_key, self._verify_keys()
        runs.left_behind(self.store, verify_keys, now, self._known())
        for found in self.there():
            if found.sealed.manifest.number in numbers:
                runs.let_go(self.store, found.sealed, key)
        swept = runs.sweep(self.store, verify_keys, now, self._known())
        return [*swept, *wal.sweep(self.store, verify_keys)]

    def plan_beyond(self, now: datetime) -> Plan:
        """Which runs may be gone from beyond the machine; none where they stay for ever there.

        The newest stays, and the newest that drills restored from there.

        Raises:
            StoreError: The clock jumped, or no run came for a day, and nobody has confirmed the
                clock since.
            Unavailable: The store does not answer.
        """
        days = self._settings.backup_offsite_days
        if not self.goes_off_site or days is None:
            return Plan({}, ())
        none = timedelta(0)
        policy = Policy(timedelta(days=days), none, none, none)
        rated = self._rated(self._reader(OFF_SITE).there(), OFF_SITE)
        return retention.plan(rated, policy, now, self._line(now))

    def let_expire(self, numbers: Collection[int]) -> None:
        """Give our word of runs that they may be gone from beyond the machine.

        A rule of the store removes their objects; it may do so a week later than their runs' age,
        since runs promise what runs of the week before kept.

        Raises:
            StoreError: The store refuses.
            Unavailable: It does not answer.
        """
        if not numbers:
            return
        there = self._reader(OFF_SITE).there()
        going = [sealed for sealed in there if sealed.manifest.number in numbers]
        offsite.let_expire(remote_store_of(self._settings), going, self._maker().signing_key)

    def frees_bytes(self, plan: Plan) -> int:
        """How much is promised by runs alone that a plan lets go here."""
        there = self._reader(LOCAL).there()
        stay = {name for one in there if one.manifest.number in plan.keep for name in one.objects}
        went = {
            name: artefact.sums.stored_bytes
            for one in there
            if one.manifest.number in plan.drop
            for name, artefact in one.objects.items()
        }
        return sum(size for name, size in went.items() if name not in stay)

    def find(self, run: str | None, store: str = LOCAL) -> Sealed:
        """A run of a store by its name, or the newest.

        Raises:
            StoreError: There is none.
        """
        return self._reader(store).find(run)

    def make_keys(self, system: str) -> Path:
        """Write new keys, each for its owner alone; nothing is written over.

        Raises:
            SettingsError: There are keys already.
        """
        made = keys.make()
        texts = {
            SYSTEM: f"{system}\n",
            RECIPIENTS: made.recipients,
            SIGNING_KEY: made.signing_key,
            VERIFY_KEY: made.verify_key,
            IDENTITY: made.identity,
            ESCROW: made.escrow_identity,
        }
        there = [name for name in texts if (self.keys_folder / name).exists()]
        if there:
            raise SettingsError(
                f"{self.keys_folder / there[0]} is there already; without it older backups could "
                "not be read, so it is not written over"
            )
        self.keys_folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        for name, text in texts.items():
            path = self.keys_folder / name
            path.touch(mode=0o600, exist_ok=False)
            path.write_text(text)
        return self.keys_folder

    def _keep_base(self, run: Run) -> Artefact:
        """A base, or the earlier run's where that is of today and its log is whole."""
        if not self._replication_url:
            raise SettingsError("RUL_BACKUP_REPLICATION_URL is not set; set it, or keep no base")
        verify_keys = self._verify_keys()
        earlier = runs.newest_there(self.store, verify_keys)
        base = snapshots.base_of(earlier) if earlier else None
        cluster = snapshots.cluster_of(self._replication_url)
        if (
            earlier
            and base
            and run.may_take_over(base, earlier)
            and recovery.is_base_of_today(
                self.store, verify_keys, earlier, cluster=cluster, now=run.started_at
            )
        ):
            return run.take_over(base, earlier)
        return snapshots.keep_base(run, self._replication_url)

    def _of_this_week(self, run: Run, kind: Kind) -> Artefact | None:
        """What an earlier run kept of a kind in the last week, promised again."""
        earlier = runs.newest_there(self.store, self._verify_keys())
        if earlier is None:
            return None
        for artefact in earlier.manifest.artefacts:
            if artefact.kind is kind and run.may_take_over(artefact, earlier):
                return run.take_over(artefact, earlier)
        return None

    def _known(self) -> list[BackupRun]:
        """The runs here of which the database knows that they were sealed."""
        return backup_rows.known(self._engine, LOCAL)

    @property
    def _url(self) -> str:
        return self._engine.url.render_as_string(hide_password=False)

    def _proofs(self, store: str) -> dict[int, RestoreProof]:
        """What the last drill found of each of a store's runs, by number."""
        return {proof.number: proof for proof in backup_rows.proofs(self._engine, store)}

    def _reader(self, store: str) -> StoreReader:
        return StoreReader(self.shelf(store), reading_keys_of(self._root, self._settings))

    def _maker(self) -> Maker:
        return maker_of(self.keys_folder)

    def _verify_keys(self) -> tuple[Any, ...]:
        return keys.verify_keys(self.keys_folder / VERIFY_KEY)

    def _identities(self) -> Sequence[Any]:
        return keys.identities(self.keys_folder / IDENTITY)

    def _refuse_where_it_does_not_fit(self) -> None:
        before = runs.newest(self.store, self._verify_keys())
        remedy = (
            "let runs go (`rul backup prune`)" if before
            else "name another folder by RUL_BACKUP_STORE"
        )  # fmt: skip
        needed, free = self._needed_bytes(before), self.store.free_bytes()
        if free < needed:
            raise StoreError(
                f"{self.store} has {free / 1e6:,.0f} MB free, and a run needs about "
                f"{needed / 1e6:,.0f}; make room, or {remedy}"
            )

    def _needed_bytes(self, before: Sealed | None) -> float:
        """Of room for a run after another, or for the first."""
        return ROOM * before.stored_bytes if before else self._first_bytes()

    def _first_bytes(self) -> int:
        """More than a first run will take: what it keeps of PostgreSQL and models, uncompressed.

        That leaves room for what is not asked, which is small beside it: Redis, and of the stack.
        """
        of_all = (
            "(SELECT sum(pg_database_size(oid)) FROM pg_database "
            "WHERE has_database_privilege(oid, 'CONNECT'))"
        )
        base = of_all if Kind.BASE in self.kinds else "0"
        with database.begin(self._engine) as connection:
            asked = sa.text(f"SELECT pg_database_size(current_database()) + {base}")
            databases = int(connection.execute(asked).scalar_one())
        return databases + snapshots.models_bytes(self._root)


def archiver_of(
    root: Path,
    settings: BackupSettings,
    url: str,
    spool: Path,
    *,
    tell: Callable[..., None],
    archive_timeout_seconds: float,
) -> Archiver:
    """What receives the log of PostgreSQL and seals it; no database of the platform is asked.

    Args:
        root: The data root.
        settings: Where backups and keys are.
        url: Of the server, of a user who may replicate.
        spool: A folder that survives a restart.
        tell: Told what was sealed, and what went wrong.
        archive_timeout_seconds: What was written is sealed within so many seconds.

    Raises:
        SettingsError: A key is missing.
    """
    return Archiver(
        local_store_of(root, settings),
        maker_of(keys_folder_of(root, settings)),
        reading_keys_of(root, settings).verify_keys(),
        url,
        spool,
        archive_timeout_seconds=archive_timeout_seconds,
        tell=tell,
    )


def maker_of(folder: Path) -> Maker:
    """Who makes backups, by a folder of keys.

    Raises:
        SettingsError: A key is missing.
    """
    path = folder / SYSTEM
    try:
        system = path.read_text().strip()
    except OSError as error:
        raise SettingsError(
            f"{path} cannot be read: {error.strerror}; `rul backup keys` makes the keys of a "
            "platform, or name their folder by RUL_BACKUP_KEYS"
        ) from error
    return Maker(
        system, keys.signing_key(folder / SIGNING_KEY), keys.recipients(folder / RECIPIENTS)
    )


def _later(started: datetime) -> datetime:
    """Now, and never before the start, whatever the clock did."""
    return max(started + timedelta(microseconds=1), datetime.now(started.tzinfo))
