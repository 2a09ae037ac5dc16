"""Backups brought beyond the machine.

What belongs here: what is brought, in which order, and seeing that it came whole. What does not:
how objects are put (``remote``), which ones may go there (whoever has a key for that decides).

As a run is made, so it is brought: what it kept first, its manifest last. So a manifest there
promises nothing that is not there, whenever it breaks off. PostgreSQL's log goes before the runs,
each segment before its note. What is there is never brought again. A run that was let go here stays
there: the two expire on their own. There nobody of us removes anything: our word says which runs
may be gone, and a rule of the store removes objects by their age.
"""

import io
from collections.abc import Collection
from contextlib import suppress
from typing import NamedTuple

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey

from rul_backup import manifest as manifests
from rul_backup import runs, wal
from rul_backup.remote import RemoteStore
from rul_backup.runs import LOST, MANIFESTS, Sealed, gone_of, manifest_of, number_of
from rul_backup.sealing import Sums
from rul_backup.stores import FolderStore, Shelf, content_of
from rul_backup.streams import sha256_of
from rul_backup.wal import Noted
from rul_core.errors import StoreError, Unavailable


class Spoilt(StoreError):
    """What is here is not what was written, so it is not brought."""


class Brought(NamedTuple):
    """What a copying came to."""

    runs: int
    """Whose manifests are there now and were not before."""
    bytes: int
    """Over the network."""
    segments: int
    """Of PostgreSQL's log, whose notes are there now and were not before."""


class Line:
    """The line of manifests here, held to go on with the one that a remote store has.

    Another may take its place while something is on its way, which lasts as long as a network lets
    it.

    Args:
        local: Has it.
        remote: Where it is brought.
        keys: Of our signatures.
    """

    def __init__(
        self, local: FolderStore, remote: RemoteStore, keys: tuple[Ed25519PublicKey, ...]
    ) -> None:
        self.local, self.remote, self.keys = local, remote, keys
        self._is_compared = False
        self._newest: tuple[str, bytes | None] | None = None
        """As it was when the two were compared."""

    def compare(self) -> bool:
        """See that it goes on with the remote one; asked of the remote store where it is newer.

        Returns:
            Whether it goes on with the one that was here when the two were compared before.

        Raises:
            StoreError: It does not, or is half exchanged for another.
            Unavailable: The remote store does not answer.
        """
        self.local.refuse_half()
        names = runs.names(self.local)
        newest = (names[-1], self._content(names[-1])) if names else None
        if self._is_compared and newest == self._newest:
            return True
        goes_on = self._is_compared and self._is_as_compared()
        refuse_another_line(self.local, self.remote, self.keys)
        self._newest, self._is_compared = newest, True
        return goes_on

    def promise(self, name: str, sha256: str) -> int:
        """Bring what promises that something is there, if it is what was read; give its bytes.

        Raises:
            StoreError: It is another now, or stands in another line; or see ``compare``.
            Unavailable: See there.
        """
        self.local.refuse_half()
        if not self._is_as_compared():
            self.compare()
        content = content_of(self.local, name)
        if manifests.sha256_of(content) != sha256:
            raise StoreError(
                f"{self.local}/{name} is another than before what it tells of was brought; ask "
                "again"
            )
        return self.remote.bring(name, io.BytesIO(content), len(content))

    def _is_as_compared(self) -> bool:
        if self._newest is None:
            return not runs.names(self.local)
        name, content = self._newest
        return content is not None and self._content(name) == content

    def _content(self, name: str) -> bytes | None:
        """None where it cannot be read, which others tell."""
        with suppress(StoreError):
            return content_of(self.local, name)
        return None


def bring(local: FolderStore, remote: RemoteStore, keys: tuple[Ed25519PublicKey, ...]) -> Brought:
    """Bring all that a remote store lacks.

    Args:
        local: Has it.
        remote: Where it is brought.
        keys: Of our signatures.

    Raises:
        Spoilt: Something is damaged here; all else was brought before this is told.
        StoreError: The remote store has another platform's backups, refuses, gives back something
            else than was brought, or has something else under a name; what comes after that is not
            brought, so that what is there stays whole.
        Unavailable: It does not answer.
    """
    here, there = local.sizes(), remote.sizes()
    line = Line(local, remote, keys)
    line.compare()
    sent, segments, spoilt = _bring_log(line, here, there)
    for word in sorted(name for name in here if name.startswith(f"{LOST}/")):
        if word not in there and manifest_of(number_of(word)) not in there:
            try:
                runs.read_lost(local, word, keys)
            except StoreError as error:
                spoilt.append(str(error))
            else:
                sent += line.promise(word, _sha256(local, word))
    promised: set[str] = set()
    new = 0
    for name in sorted(name for name in here if name.startswith(f"{MANIFESTS}/")):
        try:
            sealed = runs.read(local, name, keys)
        except Unavailable:
            raise
        except StoreError as error:
            if name not in there:  # else it was brought while it was whole
                spoilt.append(str(error))
            continue
        word = gone_of(sealed.manifest.number)
        is_gone = word in there or (name not in there and word in here)
        if name not in there:
            try:
                if word in there:
                    _refuse_word_of_another(remote, word, sealed, keys)
                elif is_gone:  # before it could be brought
                    sent += line.promise(word, _sha256(local, word))
                else:
                    sent += _bring_artefacts(local, remote, sealed, promised)
            except Spoilt as error:
                spoilt.append(str(error))
                continue
            sent += line.promise(name, sealed.sha256)
            new += 1
        if not is_gone:
            promised |= sealed.objects.keys()
    if spoilt:
        raise Spoilt("; ".join(spoilt))
    return Brought(new, sent, segments)


def _bring_log(
    line: Line, here: Collection[str], there: Collection[str]
) -> tuple[int, int, list[str]]:
    """Bring PostgreSQL's log, each segment before its note; give bytes, segments, what is spoilt.

    A segment without a note is still being sealed. One whose note is there was read back before.
    """
    missing = sorted(
        name for name in here if name.endswith(wal.NOTE) and wal.is_name(name) and name not in there
    )
    sent, spoilt = 0, []
    for name in missing:
        try:
            sent += bring_noted(line, read_here(line.local, name, line.keys))
        except Spoilt as error:
            spoilt.append(str(error))
    return sent, len(missing) - len(spoilt), spoilt


def read_here(local: Shelf, name: str, keys: tuple[Ed25519PublicKey, ...]) -> Noted:
    """A note of the log.

    Raises:
        Spoilt: It is damaged.
    """
    try:
        return wal.read(local, name, keys)
    except Unavailable:
        raise
    except StoreError as error:
        raise Spoilt(str(error)) from error


def bring_noted(line: Line, noted: Noted) -> int:
    """Bring a segment, or a timeline's history, and its note; give the bytes that were sent.

    Raises:
        Spoilt: The segment is damaged here.
        StoreError: The remote store refuses, or gives back something else than was brought; or
            another line took the place of the one here.
        Unavailable: It does not answer.
    """
    sent = _bring_and_look(line.local, line.remote, noted.content, noted.note.sums)
    return sent + line.promise(noted.object, noted.sha256)


def let_expire(remote: RemoteStore, going: Collection[Sealed], key: Ed25519PrivateKey) -> None:
    """Give our word of runs that they may be gone from beyond the machine; nothing is removed.

    Args:
        remote: Has them.
        going: The runs.
        key: Signs.

    Raises:
        StoreError: The store refuses.
        Unavailable: It does not answer.
    """
    for run in going:
        word = manifests.write_gone(run.sha256, key)
        remote.bring(gone_of(run.manifest.number), io.BytesIO(word), len(word))


def refuse_another_line(
    local: Shelf, remote: RemoteStore, keys: tuple[Ed25519PublicKey, ...]
) -> None:
    """See that a remote store is this platform's: the newest manifest of both is the same.

    One that is damaged here tells nothing of that.

    Raises:
        StoreError: It is another.
        Unavailable: The store does not answer.
    """
    there = remote.sizes(f"{MANIFESTS}/")
    for name in sorted((name for name in runs.names(local) if name in there), reverse=True):
        try:
            newest = runs.read(local, name, keys)
        except Unavailable:
            raise
        except StoreError:
            continue
        there_too = content_of(remote, name)
        if newest.sha256 != manifests.sha256_of(there_too):
            try:
                runs.opened(name, there_too, keys)
            except StoreError as error:
                raise StoreError(
                    f"{remote}/{name} is no manifest of this platform's: {error}. Where it is "
                    "damaged, remove it there, and it is brought again; else give this one a "
                    "place of its own"
                ) from error
            raise StoreError(
                f"{remote}/{name} is another than the one here: it has the backups of another "
                "platform, or of another time of this one; give this one a place of its own"
            )
        return


def _refuse_word_of_another(
    remote: RemoteStore, word: str, run: Sealed, keys: tuple[Ed25519PublicKey, ...]
) -> None:
    """See that a run may be let go there whose manifest is not; or else it would count as that."""
    try:
        if runs.read_gone(remote, word, keys) == run.sha256:
            return
    except Unavailable:
        raise
    except StoreError as error:
        raise StoreError(
            f"{remote}/{word} cannot be read: {error}; where it is damaged, remove it there"
        ) from error
    raise StoreError(f"{remote}/{word} is of another run than {run.object} here; remove it there")


def _bring_artefacts(
    local: Shelf, remote: RemoteStore, sealed: Sealed, promised: Collection[str]
) -> int:
    """Bring what a run promises and none before it; also what is there already is looked at."""
    sent = 0
    for name, artefact in sealed.objects.items():
        if name not in promised:
            sent += _bring_and_look(local, remote, name, artefact.sums)
    return sent


def _bring_and_look(local: Shelf, remote: RemoteStore, name: str, sums: Sums) -> int:
    try:
        here = _sha256(local, name)
    except (StoreError, OSError) as error:
        raise Spoilt(f"{local}/{name} is not brought: {error}") from error
    if here != sums.stored_sha256:
        raise Spoilt(f"{local}/{name} is not what was written, so it is not brought")
    with local.reading(name) as content:
        sent = remote.bring(name, content, sums.stored_bytes)
    found = _sha256(remote, name)
    if found != sums.stored_sha256:
        raise StoreError(
            f"{remote}/{name} is not what was brought: its checksum is {found}; remove it "
            "there, for it is never written over"
        )
    return sent


def _sha256(shelf: Shelf, name: str) -> str:
    with shelf.reading(name) as content:
        return sha256_of(content)
