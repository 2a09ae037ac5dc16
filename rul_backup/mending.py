"""Manifests that are damaged or missing: brought back from beyond the machine, or given up.

What belongs here: that. What does not: finding what is damaged (``verification``), the objects that
a manifest promises: where none of them is here, its run is let go here as it comes back.

While one is not there nobody knows what its run promised, so nothing is removed (``runs``). One
that is nowhere any more would stop that for ever. So our word can stand in its place, with the
checksum by which the manifest after it, or PostgreSQL, knows it: the line stays whole, and nobody
can take a manifest away unnoticed. What only cannot be read, or asked for, is not nowhere.
"""

from collections.abc import Collection, Mapping, Sequence
from enum import StrEnum
from typing import NamedTuple

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey

from rul_backup import manifest as manifests
from rul_backup import runs
from rul_backup.manifest import Lost
from rul_backup.runs import Sealed, lost_of, manifest_of, number_of
from rul_backup.stores import Shelf, Store, each, each_or_why
from rul_core.errors import StoreError
from rul_store.backup_rows import BackupRun


class Fate(StrEnum):
    """What becomes of a manifest, or of a word that one is given up."""

    BACK = "comes back from beyond the machine"
    BACK_ALONE = (
        "comes back from beyond the machine; nothing that its run kept is here, so that is"
        " let go here, and stays there"
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


def plan(
    store: Shelf,
    keys: Sequence[Ed25519PublicKey],
    known: Collection[BackupRun] = (),
    other: Shelf | None = None,
    beyond: Collection[BackupRun] = (),
) -> list[Mended]:
    """What becomes of every manifest that cannot be read or does not fit, the newest first.

    Args:
        store: Where they are damaged or missing.
        keys: Of our signatures.
        known: What somebody else knows of the runs of this store.
        other: A store that has the same line, where there is one to ask.
        beyond: What somebody else knows of the runs of that store.

    Raises:
        StoreError: The other store refuses.
        Unavailable: It does not answer.
    """
    return _Plan(store, keys, known, other, beyond).found()


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
        OSError: It cannot be written.
    """
    for one in found:
        if one.fate is Fate.BACK_ALONE:  # first: none promises what is not there
            runs.let_go(store, _sealed(one.object, one.content, keys), key)
    with store.alone():
        whole = _whole(store, keys)
        for one in found:
            number = number_of(one.object)
            there = whole.get(number)
            if one.fate is Fate.WORD_GOES:
                store.remove(one.object)
            elif one.content:
                if there is None or there.sha256 != manifests.sha256_of(one.content):
                    store.remove(one.object)
                    with store.putting(one.object) as file:
                        file.write(one.content)
                store.remove(lost_of(number))  # else nobody would miss the manifest if it went
            elif one.lost is not None and there is None:  # nobody brought it back meanwhile
                store.remove(one.object)  # what is there of it cannot be read
                store.remove(lost_of(number))
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
    with store.alone():
        for one in newer:
            runs.give_up(store, Lost(number=one.number, sha256=one.sha256), key)
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
        self._store, self._keys = store, keys
        self._known = {one.number: one for one in known}
        self._names, self._objects = {*runs.names(store)}, store.sizes(f"{runs.RUNS}/")
        self._whole = _whole(store, keys)
        self._words, self._bad_words = _words(store, keys)
        self._far = _contents(
            other, {manifest_of(number) for number in self._whole if self._fits(number)}
        )
        # Where it is asked, it says itself what it has.
        self._only_beyond = {one.number for one in beyond} if other is None else set()

    def found(self) -> list[Mended]:
        last = max(
            [*self._known, *self._whole, *self._words, *map(number_of, self._names)], default=0
        )
        newer, number = [], last + 1
        while (one := self._comes_back(number, None)) is not None:  # the other store has more
            newer, number = [one, *newer], number + 1
        found = newer + [
            one for number in range(last, 0, -1) if (one := self._fate(number)) is not None
        ]
        again = {lost_of(one.lost.number) for one in found if one.lost}
        return found + [
            Mended(name, Fate.WORD_GOES) for name in self._bad_words if name not in again
        ]

    def _fits(self, number: int) -> bool:
        """Whether one that is there is what the one after it says, where that is there."""
        following = self._whole.get(number + 1)
        return not following or following.manifest.previous_sha256 == self._whole[number].sha256

    def _fate(self, number: int) -> Mended | None:
        name, there, word = manifest_of(number), self._whole.get(number), self._words.get(number)
        following, known = self._whole.get(number + 1), self._known.get(number)
        expected = known.sha256 if known else None
        if following is not None:
            expected = following.manifest.previous_sha256
        if there is not None and self._fits(number):
            return Mended(lost_of(number), Fate.WORD_GOES, there.manifest.run) if word else None
        if (back := self._comes_back(number, expected)) is not None:
            return back
        if there is not None:
            del self._whole[number]  # what comes before it is not to be judged by it
            why = f"{manifest_of(number + 1)}, which is there, does not follow it"
            return Mended(name, Fate.STAYS, there.manifest.run, why)
        if word and name not in self._names and expected in (None, word.sha256):
            return None
        run = known.run if known else ""
        if (why := self._is_somewhere(number, expected)) is not None:
            return Mended(name, Fate.STAYS, run, why)
        if expected is None:
            why = "neither the manifest after it nor the database knows its checksum"
            return Mended(name, Fate.STAYS, run, why)
        return Mended(name, Fate.GIVEN_UP, run, lost=Lost(number=number, sha256=expected))

    def _comes_back(self, number: int, expected: str | None) -> Mended | None:
        """What the other store has of it, where it is the one that is meant."""
        name = manifest_of(number)
        content = self._far.get(name, b"")
        sealed = self._far_sealed(name)
        if sealed is None:
            return None
        if expected is None:
            before = self._whole.get(number - 1) or self._far_sealed(manifest_of(number - 1))
            last = before or self._words.get(number - 1)
            expected = sealed.sha256 if _follows(sealed, last) else None
        if sealed.manifest.number != number or sealed.sha256 != expected:
            return None
        self._whole[number] = sealed
        own = [place for place, one in sealed.objects.items() if not one.run]
        is_here = any(place in self._objects for place in own)
        fate = Fate.BACK if is_here else Fate.BACK_ALONE
        return Mended(name, fate, sealed.manifest.run, content=content)

    def _far_sealed(self, name: str) -> Sealed | None:
        try:
            return _sealed(name, self._far[name], self._keys) if name in self._far else None
        except StoreError:
            return None

    def _is_somewhere(self, number: int, expected: str | None) -> str | None:
        """Why it is not nowhere, although it cannot be read."""
        name = manifest_of(number)
        if number in self._only_beyond:
            return (
                "it is beyond the machine, and nobody has said where that is (RUL_BACKUP_OFFSITE)"
            )
        contents = [self._far[name]] if name in self._far else []
        if name in self._names:
            try:
                with self._store.reading(name) as file:
                    contents.append(file.read())
            except StoreError as error:
                return str(error)
        for content in contents:
            if manifests.sha256_of(content) == expected:
                try:
                    _sealed(name, content, self._keys)
                except StoreError as error:
                    return f"it is what was written, and yet {error}"
        return None


def _follows(sealed: Sealed, before: Sealed | Lost | None) -> bool:
    return sealed.manifest.previous_sha256 == (before.sha256 if before else None)


def _contents(other: Shelf | None, here: Collection[str]) -> Mapping[str, bytes]:
    """The manifests of another store that are not whole here; what is refused is not nowhere."""
    if other is None:
        return {}

    def content_of(name: str) -> bytes:
        with other.reading(name) as file:
            return file.read()

    names = [name for name in runs.names(other) if name not in here]
    return dict(zip(names, each(content_of, names), strict=True))


def _whole(store: Shelf, keys: Sequence[Ed25519PublicKey]) -> dict[int, Sealed]:
    """Manifests that can be read and lie where they belong, by their numbers."""
    names = runs.names(store)
    read_each = each_or_why(lambda name: runs.read(store, name, keys), names)
    return {
        sealed.manifest.number: sealed
        for name, sealed in zip(names, read_each, strict=True)
        if not isinstance(sealed, StoreError) and name == manifest_of(sealed.manifest.number)
    }


def _words(store: Shelf, keys: Sequence[Ed25519PublicKey]) -> tuple[dict[int, Lost], list[str]]:
    """Words that can be read, by their numbers, and the names of what is none."""
    found = runs.words_or_why(store, keys)
    words = {word.number: word for word in found.values() if isinstance(word, Lost)}
    return words, [name for name in found if number_of(name) not in words]


def _sealed(name: str, content: bytes, keys: Sequence[Ed25519PublicKey]) -> Sealed:
    return Sealed(name, manifests.sha256_of(content), manifests.read(content, keys))
