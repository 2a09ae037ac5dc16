"""What a run of backups kept: written last, signed, and bound to the run before it.

What belongs here: the manifest and its bytes. What does not: writing runs (``runs``), looking
whether what it says is so (``verification``).

A file has two lines: the manifest as JSON, and a signature of exactly these bytes. Each names the
SHA-256 of the file before it, so that none can be taken out of the middle or put elsewhere; only
the newest ones can go unnoticed, so they are written down elsewhere too (``backup_rows``).
"""

import base64
import binascii
import hashlib
from collections.abc import Sequence
from datetime import datetime
from enum import StrEnum
from typing import Any

import msgspec
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey

from rul_backup.sealing import Sums
from rul_core.errors import StoreError

FORMAT = 4
"""1 knew no Redis, and every artefact lay in the folder of its manifest's run; 2 no base of
PostgreSQL's files, which it would take for models; 3 nothing of the container stack."""
_PURPOSE, _PURPOSE_GONE, _PURPOSE_LOST = (
    b"rul backup manifest\n", b"rul backup let go\n", b"rul backup manifest lost\n",
)  # fmt: skip
"""Before what is signed, so that no signature of something else by the same key fits."""


class Kind(StrEnum):
    """What is kept."""

    POSTGRES = "postgres"
    REDIS = "redis"
    MODELS = "models"
    BASE = "base"
    """PostgreSQL's own files, from which its log leads to any moment."""
    DAGSTER = "dagster"
    """Dagster's database."""
    STACK = "stack"
    """What else the container stack has, as files."""


class Artefact(msgspec.Struct, frozen=True, kw_only=True):
    """One thing that a run kept."""

    name: str
    """Of its object within the run."""
    kind: Kind
    sums: Sums
    facts: dict[str, Any] = {}
    """What must be true of it once it is restored, such as rows and checksums by table."""
    run: str = ""
    """Whose folder has it: an earlier run's, since when it has not changed, or else this one's."""


class LogHead(msgspec.Struct, frozen=True, kw_only=True):
    """How far PostgreSQL's log was archived, so that what was is missed (``wal``)."""

    cluster: str
    segment: str
    number: int
    """Of the note in its chain."""
    sha256: str
    """Of the note, as it is stored."""


class Manifest(msgspec.Struct, frozen=True, kw_only=True):
    """All that a run kept."""

    format: int = FORMAT
    system: str
    """Which platform it is of; another's is never restored by mistake."""
    run: str
    number: int
    """From 1, without a gap."""
    previous_sha256: str | None
    """Of the manifest before it, as it is stored; none before the first."""
    started_at: datetime
    finished_at: datetime
    versions: dict[str, str]
    """Of the platform, its schema, PostgreSQL, and ``pg_dump``."""
    recipients: tuple[str, ...]
    """Who can read it."""
    artefacts: tuple[Artefact, ...]
    log: tuple[LogHead, ...] = ()
    """Of every cluster that the store has a log of, when the run was sealed."""
    made_before_restore_of: str = ""
    """The run that was about to take the place of what this one has; empty for ordinary ones. An
    older version reads over it."""


class Lost(msgspec.Struct, frozen=True, kw_only=True):
    """Our word that a manifest is nowhere any more, and what its run promised is given up."""

    number: int
    sha256: str
    """Of the manifest, as the one after it or somebody else knows it."""


def sha256_of(content: bytes) -> str:
    """Of a manifest as it is stored."""
    return hashlib.sha256(content).hexdigest()


def write(manifest: Manifest, key: Ed25519PrivateKey) -> bytes:
    """The file's content."""
    return signed(msgspec.json.encode(manifest, order="sorted"), _PURPOSE, key)


def read(content: bytes, keys: Sequence[Ed25519PublicKey]) -> Manifest:
    """The manifest, once its signature is seen to be of one of the keys.

    Raises:
        StoreError: It is not signed by us, not whole, or of a newer platform.
    """
    told = unsigned(content, _PURPOSE, keys)
    try:
        version = msgspec.json.decode(told, type=_Version).format
        if version > FORMAT:
            raise StoreError(
                f"it is of format {version}, and this version of the platform knows {FORMAT}; "
                "restore with the version that made it, or a newer one"
            )
        return msgspec.json.decode(told, type=Manifest)
    except msgspec.DecodeError as error:
        raise StoreError(f"it is no manifest: {error}") from error


def write_gone(sha256: str, key: Ed25519PrivateKey) -> bytes:
    """The word that the run of a manifest was let go on purpose."""
    return signed(sha256.encode(), _PURPOSE_GONE, key)


def read_gone(content: bytes, keys: Sequence[Ed25519PublicKey]) -> str:
    """The SHA-256 of the manifest whose run was let go.

    Raises:
        StoreError: It is not signed by us, or not whole.
    """
    return unsigned(content, _PURPOSE_GONE, keys).decode()


def write_lost(lost: Lost, key: Ed25519PrivateKey) -> bytes:
    """The word that a manifest is given up."""
    return signed(msgspec.json.encode(lost, order="sorted"), _PURPOSE_LOST, key)


def read_lost(content: bytes, keys: Sequence[Ed25519PublicKey]) -> Lost:
    """Which manifest is given up.

    Raises:
        StoreError: It is not signed by us, or not whole.
    """
    try:
        return msgspec.json.decode(unsigned(content, _PURPOSE_LOST, keys), type=Lost)
    except msgspec.DecodeError as error:
        raise StoreError(f"it is no word that a manifest is given up: {error}") from error


def signed(told: bytes, purpose: bytes, key: Ed25519PrivateKey) -> bytes:
    """Two lines: what is told, and its signature.

    Args:
        told: Without a line's end.
        purpose: What it is, so that no signature of something else by the same key fits.
        key: Whose signature.
    """
    return told + b"\n" + base64.b64encode(key.sign(purpose + told)) + b"\n"


def unsigned(content: bytes, purpose: bytes, keys: Sequence[Ed25519PublicKey]) -> bytes:
    """What is told in two such lines.

    Raises:
        StoreError: It is not signed by us for this purpose, or not whole.
    """
    lines = content.split(b"\n")
    if len(lines) != len(("told", "signature", "")) or lines[2]:
        raise StoreError("it has not the two lines of what this platform signs")
    told, signature = lines[0], lines[1]
    try:
        signed = base64.b64decode(signature, validate=True)
    except binascii.Error as error:
        raise StoreError("its signature is damaged") from error
    # Two texts may stand for the same bytes; only one of them was written.
    if base64.b64encode(signed) != signature or not any(
        _fits(key, signed, purpose + told) for key in keys
    ):
        raise StoreError("it is not signed by this platform's key, or was changed afterwards")
    return told


class _Version(msgspec.Struct):
    format: int


def _fits(key: Ed25519PublicKey, signature: bytes, told: bytes) -> bool:
    try:
        key.verify(signature, told)
    except InvalidSignature:
        return False
    return True
