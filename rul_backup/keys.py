"""Who may read backups, and by whom they are signed.

What belongs here: reading and making these keys. What does not: using them (``sealing``,
``manifest``).

Backups are encrypted with age (https://age-encryption.org/v1, X25519) to recipients; whoever makes
one holds no identity, and so cannot read it again. age does not say who encrypted, so manifests are
signed with Ed25519 (RFC 8032).
"""

import re
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
from pyrage import IdentityError, RecipientError, x25519

from rul_core.errors import SettingsError

FEWEST_RECIPIENTS = 2
"""One for the day, one that lies elsewhere: a single lost key must not lose every backup."""


class NewKeys(NamedTuple):
    """Texts of new key files."""

    identity: str
    """Of the day: the restore drill reads backups with it."""
    escrow_identity: str
    """For the day when all else is lost; it belongs into a safe, not on any machine."""
    recipients: str
    """Of both; for whoever makes backups."""
    signing_key: str
    verify_key: str


def make() -> NewKeys:
    """New keys of a system."""
    day, escrow, signing = new_identity(), new_identity(), new_signing_key()
    return NewKeys(
        identity=day,
        escrow_identity=escrow,
        recipients=recipients_of(day, escrow),
        signing_key=signing,
        verify_key=verify_key_of(signing),
    )


def new_identity() -> str:
    """The text of a new identity's file."""
    return f"{x25519.Identity.generate()}\n"


def recipients_of(day: str, escrow: str) -> str:
    """The text of the recipients' file, of the texts of both identities' files."""
    of_day, of_escrow = (x25519.Identity.from_str(text.strip()) for text in (day, escrow))
    return f"# daily\n{of_day.to_public()}\n# escrow\n{of_escrow.to_public()}\n"


def new_signing_key() -> str:
    """The text of a new signing key's file."""
    return (
        Ed25519PrivateKey.generate()
        .private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.PKCS8,
            serialization.NoEncryption(),
        )
        .decode()
    )


def verify_key_of(signing: str) -> str:
    """The text of the verifying key's file, of the text of the signing key's."""
    key = serialization.load_pem_private_key(signing.encode(), password=None)
    return (
        key.public_key()
        .public_bytes(serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo)
        .decode()
    )


def recipients(path: Path) -> tuple[x25519.Recipient, ...]:
    """The recipients in a file: a line each, ``#`` begins a comment.

    Raises:
        SettingsError: It cannot be read, a line is no recipient, or there are fewer than two.
    """
    found: dict[str, x25519.Recipient] = {}
    for number, line in _lines(path):
        try:
            found[line] = x25519.Recipient.from_str(line)
        except RecipientError as error:
            raise SettingsError(
                f"{path}, line {number}: {line[:80]!r} is no recipient of age; it begins with age1"
            ) from error
    if len(found) < FEWEST_RECIPIENTS:
        raise SettingsError(
            f"{path} has {len(found)} recipients; name at least {FEWEST_RECIPIENTS}, so that one "
            "lost identity does not lose every backup (`rul backup keys`)"
        )
    return tuple(found.values())


def identities(path: Path) -> tuple[x25519.Identity, ...]:
    """The identities in a file: those of now and, after a rotation, earlier ones.

    Raises:
        SettingsError: It cannot be read, has none, or a line is no identity.
    """
    found = []
    for number, line in _lines(path):
        try:
            found.append(x25519.Identity.from_str(line))
        except IdentityError as error:
            raise SettingsError(
                f"{path}, line {number} is no identity of age; it begins with AGE-SECRET-KEY-1"
            ) from error
    if not found:
        raise SettingsError(f"{path} has no identity of age; put the one that was kept into it")
    return tuple(found)


def signing_key(path: Path) -> Ed25519PrivateKey:
    """The key by which manifests are signed.

    Raises:
        SettingsError: The file cannot be read or has no such key.
    """
    try:
        key = serialization.load_pem_private_key(_content(path), password=None)
    except (ValueError, TypeError, UnsupportedAlgorithm) as error:
        raise SettingsError(
            f"{path} has no private key in PEM; `rul backup keys` makes one"
        ) from error
    if not isinstance(key, Ed25519PrivateKey):
        raise SettingsError(f"{path} has a key of another kind than Ed25519")
    return key


def verify_keys(path: Path) -> tuple[Ed25519PublicKey, ...]:
    """The keys by which signatures are checked: the one of now and earlier ones.

    Raises:
        SettingsError: The file cannot be read, has no such key, or one of another kind.
    """
    blocks: Sequence[bytes] = re.findall(
        rb"-----BEGIN PUBLIC KEY-----.+?-----END PUBLIC KEY-----", _content(path), re.DOTALL
    )
    found = []
    for block in blocks:
        try:
            key = serialization.load_pem_public_key(block)
        except (ValueError, UnsupportedAlgorithm) as error:
            raise SettingsError(f"{path} has a public key that cannot be read: {error}") from error
        if not isinstance(key, Ed25519PublicKey):
            raise SettingsError(f"{path} has a key of another kind than Ed25519")
        found.append(key)
    if not found:
        raise SettingsError(f"{path} has no public key in PEM; `rul backup keys` makes one")
    return tuple(found)


def _lines(path: Path) -> list[tuple[int, str]]:
    try:
        text = _content(path).decode()
    except UnicodeDecodeError as error:
        raise SettingsError(f"{path} is no text") from error
    stripped = [line.partition("#")[0].strip() for line in text.splitlines()]
    return [(number, line) for number, line in enumerate(stripped, 1) if line]


def _content(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise SettingsError(f"the key file {path} cannot be read: {error.strerror}") from error
