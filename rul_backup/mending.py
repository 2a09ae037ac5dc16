"""Manifests that are damaged or missing: brought back from beyond the machine, or given up.

What belongs here: that. What does not: finding what is damaged (``verification``), the objects that
a manifest promises: where these are not here, its run is let go here as it comes back.

While one is not there nobody knows what its run promised, so nothing is removed (``runs``). One
that is nowhere any more would stop that for ever. So our word can stand in its place, with the
checksum by which the manifest after it, PostgreSQL or an older word knows it: the line stays whole,
and nobody can take a manifest away unnoticed. What only cannot be read, or asked for, is not
nowhere; and what can be read and is signed by us is never written over, whoever has another.
"""

from collections.abc import Collection, Mapping, Sequence
from enum import StrEnum
from typing import NamedTuple

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey

from rul_backup import manifest as manifests
from rul_backup import runs
from rul_backup.manifest import Lost
from rul_backup.runs import Sealed, lost_of, manifest_of, number_of
from rul_backup.stores import Shelf, Store, content_of, each, each_or_why
from rul_core.errors import StoreError
from rul_store.backup_rows import BackupRun


class Fate(StrEnum):
    """What becomes of a manifest, or of a word that one is given up."""

    BACK = "comes back from beyond the machine"
    BACK_ALONE = (
        "comes back from beyond the machine; what its run kept is not all here, so that is let go"
        " here, and stays there"
    )
    GIVEN_UP = "is nowhere: it is given up, and what its run kept"
    WORD_GOES = "is not needed: it goes"
    STAYS = "cannot be mended"


class Mended(NamedTuple):
    """An object that is not as it must be, and what becomes of it."""

    object: str
    fate: Fate
    run: str = ""
    """Of which run, where anybody knows."""
    why: str = ""
    """It cannot be mended."""
    content: bytes = b""
    """As it is brought back."""
    lost: Lost | None = None
    """The word by which it is given up."""

    def __str__(self) -> str:
        of, why = f" (of {self.run})" if self.run else "", f": {self.why}" if self.why else ""
        return f"{self.object}{of} {self.fate}{why}"

    @property
    def sha256(self) -> str | None:
        """Of the manifest that is brought back or given up."""
        if self.lost is not None:
            return self.lost.sha256
        return manifests.sha256_of(self.content) if self.content else None


def plan(
    store: Shelf,
    keys: Sequence[Ed25519PublicKey],
    known: Collection[BackupRun] = (),
    other: Shelf | None = None,
    beyond: Collection[BackupRun] = (),
    *,
    lost_beyond: bool = False,
) -> list[Mended]:
    """What becomes of every manifest that cannot be read or does not fit, the newest first.

    Args:
        store: Where they are damaged or missing.
        keys: Of our signatures.
        known: What somebody else knows of the runs of this store.
        other: A store that has the same line, where there is one to ask.
        beyond: What somebody else knows of the runs of that store.
        lost_beyond: Somebody says that what is not there any more is lost there too.

    Raises:
        StoreError: What is here is another line than the one that is known, or that the other store
            has; or that refuses.
        Unavailable: It does not answer.
    """
    found = _Plan(store, keys, known, other, () if lost_beyond else beyond)
    found.refuse_another_line()
    found.bring_back()
    return found.fates()


def mend(
    store: Store,
    keys: Sequence[Ed25519PublicKey],
    found: Collection[Mended],
    key: Ed25519PrivateKey,
) -> None:
    """Bring back and give up what was planned; planned again after a kill it goes on.

    Args:
        store: Where they are damaged or missing.
        keys: Of our signatures.
        found: What ``plan`` gave; what cannot be mended stays as it is.
        key: Signs what is given up.

    Raises:
        StoreError: It cannot be written; or another manifest was sealed or put back in such a place
            meanwhile, and nothing was changed.
    """
    try:
        with store.alone():
            whole = _whole(store, keys)
            for one in found:
                there = whole.get(number_of(one.object))
                if there is not None and one.sha256 not in (None, there.sha256):
                    raise StoreError(
                        f"{store}/{there.object} came there while it was looked at; nothing was "
                        "changed: mend again"
                    )
            for one in found:
                # First: none promises what is not there.
                if one.fate is Fate.BACK_ALONE and number_of(one.object) not in whole:
                    runs.say_gone(store, runs.opened(one.object, one.content, keys), key)
            for one in found:
                _mend(store, one, key, is_there=number_of(one.object) in whole)
    except OSError as error:
        raise StoreError(f"{store} cannot be written: {error}") from error


def _mend(store: Store, one: Mended, key: Ed25519PrivateKey, *, is_there: bool) -> None:
    word = lost_of(number_of(one.object))
    if one.fate is Fate.WORD_GOES:
        store.remove(one.object)
    elif one.content:
        if not is_there:
            store.remove(one.object)
            with store.putting(one.object) as file:
                file.write(one.content)
        store.remove(word)  # else nobody would miss the manifest if it went
    elif one.lost is not None and not is_there:  # nobody put it back meanwhile
        store.remove(one.object)  # what is there of it cannot be read
        store.remove(word)
        runs.give_up(store, one.lost, key)


def give_up_newer(
    store: Store,
    keys: Sequence[Ed25519PublicKey],
    known: Collection[BackupRun],
    key: Ed25519PrivateKey,
    beyond: Collection[BackupRun] = (),
) -> list[BackupRun]:
    """Give up the runs that were lost with a machine before they came beyond it.

    Its database came back and knows them; this store, in whose place it is, ends before.

    Args:
        store: Ends before them.
        keys: Of our signatures.
        known: What the database knows of the runs of this store.
        key: Signs.
        beyond: What it knows of those that had come beyond the machine: these are not lost.

    Raises:
        StoreError: A manifest is damaged, or it cannot be written.
    """
    newest = runs.newest(store, keys)
    there = newest.manifest.number if newest else 0
    not_lost = {*runs.given_up(store, keys), *(one.number for one in beyond)}
    newer = [one for one in known if one.number > there and one.number not in not_lost]
    try:
        with store.alone():
            for one in newer:
                runs.give_up(store, Lost(number=one.number, sha256=one.sha256), key)
    except OSError as error:
        raise StoreError(f"{store} cannot be written: {error}") from error
    return newer


class _Plan:
    """See ``plan``."""

    def __init__(
        self,
        store: Shelf,
        keys: Sequence[Ed25519PublicKey],
        known: Collection[BackupRun],
        other: Shelf | None,
        beyond: Collection[BackupRun],
    ) -> None:
        self._store, self._keys, self._other = store, keys, other
        self._known = {one.number: one for one in known}
        self._beyond = {one.number for one in beyond}
        self._names, self._objects = {*runs.names(store)}, store.sizes(f"{runs.RUNS}/")
        self._whole = _whole(store, keys)
        self._words, self._bad_words = _words(store, keys)
        of_others = {one.sha256 for one in (*self._whole.values(), *self._words.values(), *known)}
        self._gone = {  # these words do not tell of which number they are
            number: sha256
            for number, sha256 in _gone(store, keys).items()
            if sha256 not in of_others
        }
        self._strange: dict[int, Sealed] = {}
        """Those that the manifest after them does not follow: none is judged by these."""
        for number in sorted(self._whole, reverse=True):
            following = self._whole.get(number + 1)
            if following and following.manifest.previous_sha256 != self._whole[number].sha256:
                self._strange[number] = self._whole.pop(number)
        here = {one.object for one in (*self._whole.values(), *self._strange.values())}
        self._there = {*runs.names(other)} if other else set()
        self._far = _contents(other, self._there - here)
        self._back: dict[int, Sealed] = {}

    def refuse_another_line(self) -> None:
        """See that what can be read here is of the line that is known, and of the other store's.

        Raises:
            StoreError: It is not.
        """
        for number, one in self._whole.items():
            known = self._known.get(number)
            if known and known.sha256 != one.sha256:
                raise StoreError(
                    f"{self._store}/{one.object}, of {one.manifest.run}, is another than the one "
                    f"that the database knows, of {known.run}: these backups are of another time "
                    "of this platform. Name another folder by RUL_BACKUP_STORE, or move what is in "
                    "this one, and mend that: the line comes back there from beyond the machine"
                )
        for _, one in sorted(self._whole.items(), reverse=True):
            if self._other is None or one.object not in self._there:
                continue
            content = content_of(self._other, one.object)
            try:
                far = runs.opened(one.object, content, self._keys)
            except StoreError:  # damaged there, as whoever verifies says
                continue
            if far.sha256 != one.sha256:
                raise StoreError(
                    f"{self._other}/{far.object} is another than the one here: it has the backups "
                    "of another time of this platform; give this one a place of its own "
                    "(RUL_BACKUP_OFFSITE), or leave that unset and mend again"
                )
            return

    def bring_back(self) -> None:
        """Take what the other store has and what is meant here, from both ends of each gap."""
        far = [number for name in self._far if (number := number_of(name))]
        for number in [*sorted(far), *sorted(far, reverse=True)]:
            if number in self._whole or number in self._strange:
                continue
            sealed = self._far_sealed(number)
            if sealed is None:
                continue
            expected = self._expected(number)
            if self._follows(sealed) if expected is None else sealed.sha256 == expected:
                self._whole[number] = self._back[number] = sealed

    def fates(self) -> list[Mended]:
        """What becomes of all, the newest first."""
        numbers = {
            *range(1, max([*self._whole, *self._strange], default=0) + 1),
            *self._known, *self._words, *map(number_of, self._names),
        } - {0}  # fmt: skip
        by_number = (self._fate(number) for number in sorted(numbers, reverse=True))
        found = [one for one in by_number if one is not None]
        again = {lost_of(one.lost.number) for one in found if one.lost}
        strays = sorted(name for name in self._names if not number_of(name))
        why = "it is no name of a manifest; move it away"
        return [
            *found,
            *(Mended(name, Fate.STAYS, why=why) for name in strays),
            *(Mended(name, Fate.WORD_GOES) for name in self._bad_words if name not in again),
        ]

    def _expected(self, number: int) -> str | None:
        """The checksum that a manifest must have, by whoever knows it."""
        if following := self._whole.get(number + 1):
            return following.manifest.previous_sha256
        witnesses = (self._known.get(number), self._words.get(number))
        told = [one.sha256 for one in witnesses if one]
        return told[0] if told else self._gone.get(number)

    def _follows(self, sealed: Sealed) -> bool:
        """Whether a manifest is known to follow the one before it; the first follows none."""
        number, told = sealed.manifest.number, sealed.manifest.previous_sha256
        if number == 1:
            return told is None
        there = self._whole.get(number - 1)
        before = there.sha256 if there else self._expected(number - 1)
        return before is not None and told == before

    def _fate(self, number: int) -> Mended | None:
        name, word = manifest_of(number), self._words.get(number)
        if (back := self._back.get(number)) is not None:
            kept = [place in self._objects for place, one in back.objects.items() if not one.run]
            # Of one that was given up only what others promise is here still.
            is_here = all(place in self._objects for place in back.objects) if word else any(kept)
            fate = Fate.BACK if is_here else Fate.BACK_ALONE
            return Mended(name, fate, back.manifest.run, content=self._far[name])
        if (there := self._whole.get(number)) is not None:
            return Mended(lost_of(number), Fate.WORD_GOES, there.manifest.run) if word else None
        if (strange := self._strange.get(number)) is not None:
            why = (
                f"{manifest_of(number + 1)}, which is there, does not follow it, and it is signed "
                "by us; move it away, and mend again"
            )
            return Mended(name, Fate.STAYS, strange.manifest.run, why)
        expected, known = self._expected(number), self._known.get(number)
        if word and name not in self._names and word.sha256 == expected:
            return None
        run = known.run if known else ""
        if (why := self._is_somewhere(number, expected)) is not None:
            return Mended(name, Fate.STAYS, run, why)
        if expected is None:
            why = "neither the manifest after it nor the database knows its checksum"
            if name in self._names:
                why += "; if it is none of this line, move it away"
            return Mended(name, Fate.STAYS, run, why)
        return Mended(name, Fate.GIVEN_UP, run, lost=Lost(number=number, sha256=expected))

    def _far_sealed(self, number: int) -> Sealed | None:
        name = manifest_of(number)
        try:
            return runs.opened(name, self._far[name], self._keys)
        except StoreError:
            return None

    def _is_somewhere(self, number: int, expected: str | None) -> str | None:
        """Why it is not nowhere, although it cannot be read."""
        name = manifest_of(number)
        contents = [self._far[name]] if name in self._far else []
        if name in self._names:
            try:
                contents.append(content_of(self._store, name))
            except StoreError as error:
                return f"{error}; once it is sure that nobody can read it any more, move it away"
        for content in contents:
            if manifests.sha256_of(content) == expected:
                try:
                    runs.opened(name, content, self._keys)
                except StoreError as error:
                    return f"it is what was written, and yet {error}"
        if number in self._beyond:
            where = f"where {self._other} has it not" if self._other else "nobody has said where"
            return (
                f"the database knows it to be beyond the machine, {where}: see that "
                "RUL_BACKUP_OFFSITE names that place; where it is lost there too, say so by "
                "`--lost-beyond` (of the job, `lost_beyond: true`)"
            )
        return None


def _contents(other: Shelf | None, names: Collection[str]) -> Mapping[str, bytes]:
    """Manifests of another store; what is refused is not nowhere."""
    if other is None:
        return {}
    return dict(zip(names, each(lambda name: content_of(other, name), names), strict=True))


def _whole(store: Shelf, keys: Sequence[Ed25519PublicKey]) -> dict[int, Sealed]:
    """Manifests that can be read and lie where they belong, by their numbers."""
    read_each = each_or_why(lambda name: runs.read(store, name, keys), runs.names(store))
    return {one.manifest.number: one for one in read_each if not isinstance(one, StoreError)}


def _words(store: Shelf, keys: Sequence[Ed25519PublicKey]) -> tuple[dict[int, Lost], list[str]]:
    """Words that can be read, by their numbers, and the names of what is none."""
    found = runs.words_or_why(store, keys)
    words = {word.number: word for word in found.values() if isinstance(word, Lost)}
    return words, [name for name in found if number_of(name) not in words]


def _gone(store: Shelf, keys: Sequence[Ed25519PublicKey]) -> dict[int, str]:
    """Checksums of manifests whose runs were let go, by their numbers, as our words have them."""
    names = sorted(store.sizes(f"{runs.GONE}/"))
    read_each = each_or_why(lambda name: runs.read_gone(store, name, keys), names)
    told = zip(map(number_of, names), read_each, strict=True)
    return {number: sha256 for number, sha256 in told if isinstance(sha256, str)}
