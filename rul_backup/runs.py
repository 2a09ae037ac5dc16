"""Runs of backups in a store: written artefact by artefact, sealed by a manifest, let go in order.

What belongs here: which object lies where, and the order in which they come and go. What does not:
what is in them (``snapshots``), whether they are whole (``verification``), which ones may go
(``retention``).

    runs/<run>/<name>.zst.age     what a run kept, and later ones too while it does not change
    manifests/<number>            that it is complete; written last, and never removed
    gone/<number>                 our word that the run was let go
    lost/<number>                 our word that the manifest is given up, in whose place it stands

A run without a manifest was not finished, and is none. The word is given before anything is
removed, so that at no moment a manifest promises what is not there.
"""

import re
import secrets
from collections.abc import Collection, Generator, Sequence
from contextlib import contextmanager, suppress
from datetime import UTC, datetime, timedelta
from typing import Any, NamedTuple

import msgspec
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
from pyrage import x25519

from rul_backup import manifest as manifests
from rul_backup import telling
from rul_backup.manifest import Artefact, Kind, LogHead, Lost, Manifest
from rul_backup.retention import FUTURE
from rul_backup.sealing import SUFFIX, seal
from rul_backup.stores import Shelf, Store, content_of, each, each_or_why
from rul_backup.streams import Pace, Paced, Readable, sha256_of
from rul_backup.telling import Tell
from rul_core.errors import StoreError, Unavailable
from rul_store.backup_rows import BackupRun

RUNS, MANIFESTS, GONE, LOST = "runs", "manifests", "gone", "lost"
UNFINISHED = timedelta(hours=24)
"""A run that is at work for longer was ended; what it left may be removed."""
TAKEN_OVER_FOR = timedelta(days=7)
"""What has not changed is kept anew after so long, so that whoever expires objects by their age
knows how much older than a run they may be."""


_MEND = "`rul backup mend` says what becomes of it"
_UNKNOWN = "nobody knows what the run promises, so nothing is removed"


class Sealed(NamedTuple):
    """A manifest in a store."""

    object: str
    sha256: str
    manifest: Manifest

    @property
    def objects(self) -> dict[str, Artefact]:
        """What it promises, by where that lies."""
        return {self.object_of(one): one for one in self.manifest.artefacts}

    def of_kind(self, kind: Kind) -> dict[str, Artefact]:
        """What it promises of a kind, by where that lies."""
        return {name: one for name, one in self.objects.items() if one.kind is kind}

    def object_of(self, artefact: Artefact) -> str:
        """Where one of its artefacts lies."""
        return object_of(artefact.run or self.manifest.run, artefact.name)

    @property
    def known(self) -> BackupRun:
        """What somebody else keeps of it."""
        return BackupRun(
            run=self.manifest.run,
            number=self.manifest.number,
            sha256=self.sha256,
            finished_at=self.manifest.finished_at,
            started_at=self.manifest.started_at,
            stored_bytes=self.stored_bytes,
        )

    @property
    def stored_bytes(self) -> int:
        """Of all that it promises."""
        return sum(artefact.sums.stored_bytes for artefact in self.manifest.artefacts)


class Maker(NamedTuple):
    """Who makes backups of which platform, for whom."""

    system: str
    signing_key: Ed25519PrivateKey
    recipients: tuple[x25519.Recipient, ...]


class Run:
    """A run that is being written.

    Args:
        store: Where.
        maker: Who.
        now: When it began.
        pace: How fast whatever it keeps is read; it never rests unless given.
        before_restore_of: The run that takes the place of what is kept, where one does.
    """

    def __init__(
        self,
        store: Store,
        maker: Maker,
        now: datetime,
        pace: Pace | None = None,
        *,
        before_restore_of: str = "",
    ) -> None:
        self._store, self._maker, self.started_at = store, maker, now
        self.pace, self._before_restore_of = pace or Pace(), before_restore_of
        self.name = f"{now.astimezone(UTC):%Y%m%dT%H%M%SZ}-{secrets.token_hex(3)}"
        self._artefacts: list[Artefact] = []
        self._sealed: Sealed | None = None
        self._may_be_sealed = False

    def keep(self, name: str, kind: Kind, content: Readable, facts: dict[str, Any]) -> Artefact:
        """Seal one thing.

        Args:
            name: Of the thing, such as ``platform.dump``.
            kind: What it is.
            content: Its bytes.
            facts: What must be true of it once restored; known when the content ends.

        Raises:
            StoreError: It cannot be written, or what gives it fails; nothing of it is left.
        """
        try:
            with self._store.putting(object_of(self.name, name)) as stored:
                sums = seal(Paced(content, self.pace), stored, self._maker.recipients)
        except (StoreError, OSError) as error:
            raise StoreError(f"{name} cannot be kept: {error}") from error
        artefact = Artefact(name=name, kind=kind, sums=sums, facts=facts)
        self._artefacts.append(artefact)
        return artefact

    def may_take_over(self, artefact: Artefact, earlier: Sealed) -> bool:
        """Whether what an earlier run promises is whole, and young enough to promise it again.

        What was kept in the future, while the clock was wrong, is not young.
        """
        kept_at = started_at(artefact.run or earlier.manifest.run)
        if kept_at is None or not -FUTURE <= self.started_at - kept_at < TAKEN_OVER_FOR:
            return False
        name = earlier.object_of(artefact)
        if not self._has(name, artefact):
            return False
        try:
            with self._store.reading(name) as stored:
                return sha256_of(Paced(stored, self.pace)) == artefact.sums.stored_sha256
        except Unavailable:
            raise
        except (StoreError, OSError):  # a sector that cannot be read is no reason to keep nothing
            return False

    def take_over(self, artefact: Artefact, earlier: Sealed) -> Artefact:
        """Promise what an earlier run kept, since it has not changed."""
        kept = msgspec.structs.replace(artefact, run=artefact.run or earlier.manifest.run)
        self._artefacts.append(kept)
        return kept

    @property
    def kinds(self) -> set[Kind]:
        """What it has."""
        return {artefact.kind for artefact in self._artefacts}

    def seal(
        self,
        versions: dict[str, str],
        keys: Sequence[Ed25519PublicKey],
        now: datetime,
        log: Sequence[LogHead] = (),
        known: Collection[BackupRun] = (),
    ) -> Sealed:
        """Write the manifest: from now on the run is one. Asked again it says the same.

        Args:
            versions: See ``Manifest``.
            keys: Of our signatures.
            now: When it ended.
            log: How far PostgreSQL's log is archived.
            known: What somebody else knows of the runs of this store: where the newest manifests
                are not here, it is not taken for one of them.

        Raises:
            StoreError: The manifest before it is damaged, or it cannot be written; or what it takes
                over has been let go meanwhile.
        """
        if self._sealed is not None:
            return self._sealed
        if not self._artefacts:
            raise StoreError(f"the run {self.name} kept nothing, so it is not sealed")
        with self._store.alone():
            for artefact in self._artefacts:
                name = object_of(artefact.run or self.name, artefact.name)
                if not self._has(name, artefact):
                    raise StoreError(
                        f"{self._store}/{name} is not there as it was written, so the run "
                        f"{self.name} cannot promise it; make a new backup"
                    )
            before = newest(self._store, keys)
            number, sha256 = _end_of_line(self._store, keys, before, known)
            manifest = Manifest(
                system=self._maker.system,
                run=self.name,
                number=number + 1,
                previous_sha256=sha256,
                started_at=self.started_at,
                finished_at=now,
                versions=versions,
                recipients=tuple(map(str, self._maker.recipients)),
                artefacts=tuple(self._artefacts),
                log=tuple(log),
                made_before_restore_of=self._before_restore_of,
            )
            if before and before.manifest.system != manifest.system:
                raise StoreError(
                    f"the store has backups of the platform {before.manifest.system}, not of "
                    f"{manifest.system}; give this one a store of its own"
                )
            content = manifests.write(manifest, self._maker.signing_key)
            name = manifest_of(manifest.number)
            self._may_be_sealed = True  # whatever is raised from here on
            with self._store.putting(name) as stored:
                stored.write(content)
        self._sealed = Sealed(name, manifests.sha256_of(content), manifest)
        return self._sealed

    def discard(self) -> None:
        """Remove what it kept, unless it was sealed: else runs that fail fill the store."""
        if self._may_be_sealed:
            return
        with suppress(OSError, StoreError):  # what is left ``sweep`` removes a day later
            for name in self._store.sizes(f"{RUNS}/{self.name}/"):
                self._store.remove(name)

    def _has(self, name: str, artefact: Artefact) -> bool:
        return self._store.sizes(name).get(name) == artefact.sums.stored_bytes


def object_of(run: str, name: str) -> str:
    """Where a run's artefact lies."""
    return f"{RUNS}/{run}/{name}{SUFFIX}"


def manifest_of(number: int) -> str:
    """Where a manifest lies."""
    return f"{MANIFESTS}/{number:08d}"


def number_of(name: str) -> int:
    """That a manifest, or a word of one, is named by; 0 where it is by none."""
    plain = name.rpartition("/")[2]
    return int(plain) if re.fullmatch(r"[0-9]{8}", plain) else 0


def lost_of(number: int) -> str:
    """Where our word lies that it is given up."""
    return f"{LOST}/{number:08d}"


def gone_of(number: int) -> str:
    """Where our word lies that its run was let go."""
    return f"{GONE}/{number:08d}"


@contextmanager
def _mendable() -> Generator[None]:
    """Name who says what becomes of a manifest that is damaged here, or of a word."""
    try:
        yield
    except Unavailable:
        raise
    except StoreError as error:
        raise StoreError(f"{error}; {_MEND}") from error


def _end_of_line(
    store: Shelf,
    keys: Sequence[Ed25519PublicKey],
    before: Sealed | None,
    known: Collection[BackupRun],
) -> tuple[int, str | None]:
    """Number and checksum of the last manifest that anybody knows of, whether it is here or not.

    Whoever knows another than the newest that is here knows another line.

    Raises:
        StoreError: The word in the place of the last is damaged.
    """
    here = (before.manifest.number, before.sha256) if before else (0, None)
    words = words_or_why(store, keys)
    given = [(one.number, one.sha256) for one in words.values() if isinstance(one, Lost)]
    elsewhere = {one.number: one.sha256 for one in known}
    if before and elsewhere.get(here[0], here[1]) != here[1]:
        elsewhere = {}
    last = max([here, *given, *elsewhere.items()], key=lambda end: end[0])
    for name, word in words.items():
        if isinstance(word, StoreError) and name > lost_of(last[0]):
            raise StoreError(f"{word}; {_MEND}") from word
    return last


def newest(store: Shelf, keys: Sequence[Ed25519PublicKey]) -> Sealed | None:
    """The run that was sealed last, whether it is still there or not.

    Raises:
        StoreError: Its manifest is damaged.
    """
    last = max(store.sizes(f"{MANIFESTS}/"), default=None)
    with _mendable():
        return None if last is None else read(store, last, keys)


def newest_there(store: Shelf, keys: Sequence[Ed25519PublicKey]) -> Sealed | None:
    """The newest run that was not let go: what it kept may be taken over.

    Raises:
        StoreError: Its manifest is damaged.
    """
    last = max(names_there(store), default=None)
    return None if last is None else read(store, last, keys)


def every(store: Shelf, keys: Sequence[Ed25519PublicKey]) -> list[Sealed]:
    """Runs that ever were, also those that were let go, the oldest first.

    Raises:
        StoreError: A manifest is damaged; names it.
    """
    return _read_each(store, names(store), keys)


def whole_line(store: Shelf, keys: Sequence[Ed25519PublicKey]) -> list[Sealed]:
    """The same, where none is missing up to the newest: whoever removes anything asks for these.

    In the place of one that was given up stands our word.

    Raises:
        StoreError: A manifest is damaged or missing; names it.
    """
    with _mendable():
        found, words = every(store, keys), given_up(store, keys)
        number, before = 1, None
        for sealed in found:
            while number in words and number < sealed.manifest.number:
                number, before = number + 1, words[number].sha256
            name = manifest_of(number)
            if sealed.object != name:
                raise StoreError(f"{store}/{name} is missing; {_UNKNOWN}")
            if sealed.manifest.previous_sha256 != before:
                raise StoreError(
                    f"{store}/{name} does not follow the manifest before it; {_UNKNOWN}"
                )
            number, before = number + 1, sealed.sha256
        return found


def given_up(store: Shelf, keys: Sequence[Ed25519PublicKey]) -> dict[int, Lost]:
    """Manifests that are nowhere any more, by our word, by their numbers.

    Raises:
        StoreError: A word is damaged; names it.
    """
    found: dict[int, Lost] = {}
    for word in words_or_why(store, keys).values():
        if isinstance(word, StoreError):
            raise word
        found[word.number] = word
    return found


def words_or_why(store: Shelf, keys: Sequence[Ed25519PublicKey]) -> dict[str, Lost | StoreError]:
    """What stands under ``lost/``, by its objects: each word, or why it is none.

    Raises:
        Unavailable: The store does not answer.
    """
    names = sorted(store.sizes(f"{LOST}/"))
    read_each = each_or_why(lambda name: read_lost(store, name, keys), names)
    return dict(zip(names, read_each, strict=True))


def there(store: Shelf, keys: Sequence[Ed25519PublicKey]) -> list[Sealed]:
    """Runs that were not let go, the oldest first.

    Raises:
        StoreError: A manifest is damaged; names it.
    """
    return _read_each(store, names_there(store), keys)


def readable(
    store: Shelf,
    asked: Sequence[str],
    keys: Sequence[Ed25519PublicKey],
    tell: Tell = telling.nobody,
) -> list[Sealed]:
    """Those of some manifests that are whole; a damaged one is left to whoever verifies.

    Args:
        store: Has them.
        asked: Their names.
        keys: Of our signatures.
        tell: Told of each that is damaged.

    Raises:
        Unavailable: The store does not answer.
    """
    whole = []
    for one in each_or_why(lambda name: read(store, name, keys), asked):
        if isinstance(one, StoreError):
            tell(f"passed over: {one}", None)
        else:
            whole.append(one)
    return whole


def names(store: Shelf) -> list[str]:
    """All manifests, the oldest first; read by nobody yet."""
    return sorted(store.sizes(f"{MANIFESTS}/"))


def names_there(store: Shelf) -> list[str]:
    """The manifests of runs that were not let go, the oldest first; read by nobody yet."""
    gone = {name.rpartition("/")[2] for name in store.sizes(f"{GONE}/")}
    return [name for name in names(store) if name.rpartition("/")[2] not in gone]


def _read_each(
    store: Shelf, names: Sequence[str], keys: Sequence[Ed25519PublicKey]
) -> list[Sealed]:
    return each(lambda name: read(store, name, keys), names)


def read(store: Shelf, name: str, keys: Sequence[Ed25519PublicKey]) -> Sealed:
    """A manifest.

    Raises:
        StoreError: It is damaged, or in the place of another; names it.
    """
    content = content_of(store, name)
    try:
        return opened(name, content, keys)
    except StoreError as error:
        raise StoreError(f"{store}/{name}: {error}") from error


def opened(name: str, content: bytes, keys: Sequence[Ed25519PublicKey]) -> Sealed:
    """A manifest by what is in it.

    Raises:
        StoreError: It is damaged, or of another name.
    """
    sealed = Sealed(name, manifests.sha256_of(content), manifests.read(content, keys))
    if name != manifest_of(sealed.manifest.number):
        raise StoreError(f"is the manifest of number {sealed.manifest.number}")
    return sealed


def read_lost(store: Shelf, name: str, keys: Sequence[Ed25519PublicKey]) -> Lost:
    """A word that a manifest is given up.

    Raises:
        StoreError: It is damaged, or in the place of another; names it.
    """
    content = content_of(store, name)
    try:
        word = manifests.read_lost(content, keys)
    except StoreError as error:
        raise StoreError(f"{store}/{name}: {error}") from error
    if name != lost_of(word.number):
        raise StoreError(f"{store}/{name}: it is the word of number {word.number}")
    return word


def read_gone(store: Shelf, name: str, keys: Sequence[Ed25519PublicKey]) -> str:
    """A word that a run is let go: the checksum of its manifest.

    Raises:
        StoreError: It is damaged.
    """
    return manifests.read_gone(content_of(store, name), keys)


def give_up(store: Store, lost: Lost, key: Ed25519PrivateKey) -> None:
    """Say that a manifest is nowhere any more."""
    with store.putting(lost_of(lost.number)) as file:
        file.write(manifests.write_lost(lost, key))


def let_go(store: Store, run: Sealed, key: Ed25519PrivateKey) -> None:
    """Say of a run that it is let go on purpose; from now on what it alone kept is nobody's.

    Raises:
        StoreError: Its manifest is not there any more, or another: another line took the place of
            the one that was read.
    """
    with store.alone():
        if manifests.sha256_of(content_of(store, run.object)) != run.sha256:
            raise StoreError(
                f"{store}/{run.object} is another than that of {run.manifest.run}, which was to be "
                "let go; look at what is there now, and ask again"
            )
        say_gone(store, run, key)


def say_gone(store: Store, run: Sealed, key: Ed25519PrivateKey) -> None:
    """The same, by who holds the store alone."""
    word = gone_of(run.manifest.number)
    if not store.has(word):
        with store.putting(word) as file:
            file.write(manifests.write_gone(run.sha256, key))


def left_behind(
    store: Store, keys: Sequence[Ed25519PublicKey], now: datetime, known: Collection[BackupRun] = ()
) -> list[str]:
    """Objects that no run promises: of runs that were let go, or killed while they were made.

    Halves of objects too, whoever was killed as they were put.

    Args:
        store: Has them.
        keys: Of our signatures.
        now: By this machine's clock.
        known: Runs of which somebody else knows that they were sealed: the newest manifests can be
            missing without a gap.

    Raises:
        StoreError: A manifest is damaged or missing; until it is restored, nobody knows whose what
            is.
    """
    line, stay = whole_line(store, keys), {*names_there(store)}
    wanted = {name for sealed in line if sealed.object in stay for name in sealed.objects}
    promised = {name for sealed in line for name in sealed.objects}
    finished = {sealed.manifest.run for sealed in line}
    kept = store.sizes(f"{RUNS}/")
    words = given_up(store, keys)
    sealed_once = {one.run for one in known if one.number not in words}
    for run in sorted({name.split("/")[1] for name in kept} & sealed_once - finished):
        raise StoreError(f"{store} has what {run} kept, and not its manifest; {_UNKNOWN}; {_MEND}")
    left = [
        name
        for name in sorted(kept)
        if name not in wanted
        and (
            name in promised
            or ((run := name.split("/")[1]) not in finished and is_unfinished(run, now))
        )
    ]
    return left + store.halves()


def is_unfinished(run: str, now: datetime) -> bool:
    """Whether a run without a manifest, by its name, began too long ago to be at work still."""
    begun = started_at(run)
    return begun is not None and now - begun >= UNFINISHED


def started_at(run: str) -> datetime | None:
    """When a run began, by its name; none where it is no name of a run."""
    try:
        return datetime.strptime(run.partition("-")[0] + "+0000", "%Y%m%dT%H%M%SZ%z")
    except ValueError:
        return None


def sweep(
    store: Store, keys: Sequence[Ed25519PublicKey], now: datetime, known: Collection[BackupRun] = ()
) -> list[str]:
    """Remove what no run promises, and give the objects; see ``left_behind``."""
    with store.alone():  # so that no run takes over what is being removed
        found = left_behind(store, keys, now, known)
        for name in found:
            store.remove(name)
    return found
