"""Keys of a platform that is backed up."""

from pathlib import Path
from typing import NamedTuple

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
from pyrage import x25519

from rul_backup import keys
from rul_backup.runs import Maker


class Keys(NamedTuple):
    """Read from the files that ``rul backup keys`` would write."""

    maker: Maker
    verify: tuple[Ed25519PublicKey, ...]
    identities: tuple[x25519.Identity, ...]
    escrow: tuple[x25519.Identity, ...]


@pytest.fixture(scope="session")
def plant(tmp_path_factory: pytest.TempPathFactory) -> Keys:
    return keys_in(tmp_path_factory.mktemp("keys"))


def keys_in(folder: Path) -> Keys:
    """New ones."""
    for name, text in keys.make()._asdict().items():
        (folder / name).write_text(text)
    return Keys(
        Maker(
            "plant",
            keys.signing_key(folder / "signing_key"),
            keys.recipients(folder / "recipients"),
        ),
        keys.verify_keys(folder / "verify_key"),
        keys.identities(folder / "identity"),
        keys.identities(folder / "escrow_identity"),
    )
