"""Who can read a backup, and what is said where a key or a stream is not what it should be."""

import errno
import io
import random
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path

import msgspec
import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric.rsa import generate_private_key
from hypothesis import given
from hypothesis import strategies as st

from rul_backup import drill, keys, manifest, runs
from rul_backup.manifest import Kind
from rul_backup.runs import Maker, Run, Sealed
from rul_backup.sealing import seal, unseal
from rul_backup.stores import FolderStore
from rul_backup.verification import Level, verify
from rul_core.errors import SettingsError, StoreError

from .conftest import Keys, keys_in

START = datetime(2026, 11, 1, tzinfo=UTC)


@given(st.binary(max_size=200_000))
def test_each_recipient_alone_reads_exactly_what_was_kept(plant: Keys, content: bytes):
    stored = io.BytesIO()
    sums = seal(io.BytesIO(content), stored, plant.maker.recipients)
    for identities in (plant.identities, plant.escrow):
        plain = io.BytesIO()
        assert unseal(io.BytesIO(stored.getvalue()), plain, identities) == sums
        assert plain.getvalue() == content


def test_a_third_key_reads_nothing(plant: Keys, tmp_path: Path):
    stored = io.BytesIO()
    seal(io.BytesIO(b"secret"), stored, plant.maker.recipients)
    with pytest.raises(StoreError, match="No matching keys found; give an identity"):
        unseal(io.BytesIO(stored.getvalue()), io.BytesIO(), keys_in(tmp_path).identities)


def test_after_a_rotation_old_backups_are_read_and_new_ones_only_by_the_new_key(
    plant: Keys, tmp_path: Path
):
    new = keys_in(tmp_path)
    old_stored, new_stored = io.BytesIO(), io.BytesIO()
    seal(io.BytesIO(b"old"), old_stored, plant.maker.recipients)
    seal(io.BytesIO(b"new"), new_stored, new.maker.recipients)
    both = (*new.identities, *plant.identities)  # the new one is put before those of before
    for stored, content in ((old_stored, b"old"), (new_stored, b"new")):
        plain = io.BytesIO()
        unseal(io.BytesIO(stored.getvalue()), plain, both)
        assert plain.getvalue() == content
    with pytest.raises(StoreError, match=r"cannot be decrypted"):
        unseal(io.BytesIO(new_stored.getvalue()), io.BytesIO(), plant.identities)


@pytest.mark.parametrize("at", [200, -1, -50_000])
def test_a_stream_that_was_cut_or_changed_is_damaged(plant: Keys, at: int):
    stored = io.BytesIO()
    content = bytes(range(256)) * 4000
    seal(io.BytesIO(content), stored, plant.maker.recipients)
    whole = stored.getvalue()
    changed = bytearray(whole)
    changed[at % len(whole)] ^= 4
    for damaged in (bytes(changed), whole[: at % len(whole)]):
        with pytest.raises(StoreError, match=r"is damaged|cannot be decrypted"):
            unseal(io.BytesIO(damaged), io.BytesIO(), plant.identities)


class Full(io.RawIOBase):
    def write(self, _: object) -> int:
        raise OSError(errno.ENOSPC, "No space left on device")


@pytest.mark.parametrize("size", [1, 10, 1_000_000])
def test_a_full_disk_is_a_full_disk_and_neither_damage_nor_a_backup(plant: Keys, size: int):
    content, stored = random.Random(size).randbytes(size), io.BytesIO()
    with pytest.raises(OSError, match="No space left on device"):
        seal(io.BytesIO(content), Full(), plant.maker.recipients)
    seal(io.BytesIO(content), stored, plant.maker.recipients)
    with pytest.raises(OSError, match="No space left on device"):
        unseal(io.BytesIO(stored.getvalue()), Full(), plant.identities)


def rsa() -> bytes:
    return generate_private_key(65537, 2048).private_bytes(
        serialization.Encoding.PEM,
        serialization.PrivateFormat.PKCS8,
        serialization.NoEncryption(),
    )


def rsa_public() -> bytes:
    return (
        generate_private_key(65537, 2048)
        .public_key()
        .public_bytes(serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo)
    )


ONE = keys.make()
CASES: list[tuple[Callable[[Path], object], bytes | None, str]] = [
    (keys.recipients, None, "cannot be read: No such file"),
    (keys.recipients, b"age1x\n", r"line 1: 'age1x' is no recipient of age"),
    (keys.recipients, b"\xff\xfe", "is no text"),
    (keys.recipients, ONE.recipients.split("# escrow")[0].encode(), "has 1 recipients; name at"),
    (keys.identities, b"# none\n", "has no identity of age"),
    (keys.identities, b"\nhunter2\n", "line 2 is no identity of age"),
    (keys.signing_key, b"hunter2", "has no private key in PEM; `rul backup keys` makes one"),
    (keys.signing_key, rsa(), "has a key of another kind than Ed25519"),
    (keys.verify_keys, b"hunter2", "has no public key in PEM"),
    (keys.verify_keys, rsa_public(), "has a key of another kind than Ed25519"),
    (
        keys.verify_keys,
        b"-----BEGIN PUBLIC KEY-----\nAAAA\n-----END PUBLIC KEY-----\n",
        "has a public key that cannot be read",
    ),
]


@pytest.mark.parametrize(("read", "content", "said"), CASES, ids=[said for *_, said in CASES])
def test_a_key_file_that_is_wrong_is_named_and_its_content_is_not(
    tmp_path: Path, read: Callable[[Path], object], content: bytes | None, said: str
):
    path = tmp_path / "key"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(SettingsError, match=said) as told:
        read(path)
    assert str(path) in str(told.value)
    assert "hunter2" not in str(told.value)


def test_after_both_keys_were_replaced_the_line_goes_on_and_every_run_of_it_opens(
    plant: Keys, tmp_path: Path
):
    made = [keys.make(), keys.make()]
    folder, store = tmp_path / "keys", FolderStore(tmp_path / "backups")
    folder.mkdir()

    def write(**texts: str) -> None:
        for name, text in texts.items():
            (folder / name).write_text(text)

    def sealed(number: int) -> None:
        maker = Maker("plant", keys.signing_key(folder / "signing"), keys.recipients(folder / "to"))
        run = Run(store, maker, START + timedelta(hours=number))
        content = io.BytesIO(b"of %d" % number)
        run.keep("redis.rdb", Kind.REDIS, content, {})
        run.seal({}, keys.verify_keys(folder / "verify"), run.started_at)

    def findings() -> list[str]:
        verify_keys, identities = (
            keys.verify_keys(folder / "verify"), keys.identities(folder / "identity")
        )  # fmt: skip
        now = START + timedelta(hours=2)
        found = verify(store, verify_keys, Level.CONTENT, now=now, identities=identities)
        return [finding.object for finding in found.findings]

    old, new = made
    write(signing=old.signing_key, to=old.recipients, verify=old.verify_key, identity=old.identity)
    sealed(0)
    write(
        signing=new.signing_key, to=new.recipients, verify=new.verify_key + old.verify_key,
        identity=new.identity + old.identity,
    )  # fmt: skip
    sealed(1)
    assert findings() == []
    first, second = runs.every(store, keys.verify_keys(folder / "verify"))
    assert second.manifest.previous_sha256 == first.sha256
    for number, one in enumerate((first, second)):
        back = tmp_path / f"back-{number}"
        drill.restore_files(store, one, back, keys.identities(folder / "identity"))
        assert (back / "redis.rdb").read_bytes() == b"of %d" % number
    write(verify=new.verify_key, identity=new.identity)  # where the old ones did not stay
    assert findings()[0] == first.object
    write(verify=new.verify_key + old.verify_key)
    assert findings() == [*first.objects]


def test_a_manifest_of_a_newer_platform_is_told_apart_from_a_damaged_one(plant: Keys):
    newer = manifest.signed(
        msgspec.json.encode({"format": 5, "more": True}),
        manifest._PURPOSE,
        plant.maker.signing_key,
    )
    with pytest.raises(
        StoreError, match="is of format 5, and this version of the platform knows 4"
    ):
        manifest.read(newer, plant.verify)
    other = manifest.signed(b"{}", manifest._PURPOSE, plant.maker.signing_key)
    with pytest.raises(StoreError, match="it is no manifest"):
        manifest.read(other, plant.verify)


def test_a_signature_of_one_thing_is_none_of_another(plant: Keys):
    word = manifest.write_gone("0" * 64, plant.maker.signing_key)
    assert manifest.read_gone(word, plant.verify) == "0" * 64
    with pytest.raises(StoreError, match="not signed by this platform's key"):
        manifest.read(word, plant.verify)


def test_a_manifest_of_an_earlier_format_is_still_read(plant: Keys):
    sums = {"plain_bytes": 1, "plain_sha256": "a", "stored_bytes": 1, "stored_sha256": "b"}
    told = {
        "format": 1, "system": "plant", "run": "r", "number": 1, "previous_sha256": None,
        "started_at": "2026-11-01T00:00:00Z", "finished_at": "2026-11-01T00:00:01Z",
        "versions": {}, "recipients": [],
        "artefacts": [{"name": "platform.dump", "kind": "postgres", "sums": sums, "facts": {}}],
    }  # fmt: skip
    content = manifest.signed(msgspec.json.encode(told), manifest._PURPOSE, plant.maker.signing_key)
    found = Sealed("manifests/00000001", "", manifest.read(content, plant.verify))
    assert found.objects.keys() == {"runs/r/platform.dump.zst.age"}
