"""A real S3 server (rclone's) with TLS, in a folder of its own; its files can be spoilt.

It tells what it is asked. Every test with the fixture ``s3`` sees in the end that nothing was asked
for which a key that may put, get and list would not do, and nothing was put twice.
"""

import json
import re
import socket
import subprocess
import sys
import time
from collections.abc import Generator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from ipaddress import ip_address
from pathlib import Path
from typing import NamedTuple

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from rul_backup.remote import RemoteStore

BUCKET = "backups"
HOST = "127.0.0.1"


KEY, SECRET = "keeper", "s3cret"
HARMLESS = re.compile(r"(HEAD OBJECT|GET OBJECT|CREATE OBJECT|LIST BUCKET|bucketname:) ?.*")
PUT = "CREATE OBJECT: "


def options(endpoint: str, **others: str) -> str:
    """As RUL_BACKUP_OFFSITE_OPTIONS has them."""
    told = {"endpoint": endpoint, "region": "us-east-1", "access_key_id": KEY,
            "secret_access_key": SECRET}  # fmt: skip
    return json.dumps(told | others)


class S3(NamedTuple):
    """What speaks S3."""

    endpoint: str
    files: Path
    """What is in the bucket."""
    authority: Path
    """The certificate by which it is known."""
    log: Path

    def asked(self) -> list[str]:
        """All that it was ever asked, by its own words."""
        return re.findall(r"DEBUG : serve s3: (.+)", self.log.read_text())

    def options(self, **others: str) -> str:
        """As RUL_BACKUP_OFFSITE_OPTIONS has them."""
        return options(**{"endpoint": self.endpoint, **others})

    def spoil(self, path: Path, content: bytes | None) -> None:
        """Put a file behind its back, or take it away, and wait until it has seen that."""
        path.parent.mkdir(parents=True, exist_ok=True)
        if content is None:
            path.unlink()
        else:
            path.write_bytes(content)
        time.sleep(0.1)

    def store(self, prefix: str) -> RemoteStore:
        """A place of its own."""
        return RemoteStore.at(f"s3://{BUCKET}/{prefix}", self.options())


def certify(folder: Path, host: str = HOST) -> tuple[str, str]:
    """Make an authority, and a server at an address that it vouches for; give rclone's options."""
    now = datetime.now(UTC)

    def signed(name: str, key: ec.EllipticCurvePrivateKey, by: tuple | None) -> x509.Certificate:
        subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
        issuer, issuer_key = by or (subject, key)
        builder = (
            x509.CertificateBuilder()
            .subject_name(subject)
            .issuer_name(issuer)
            .public_key(key.public_key())
            .serial_number(x509.random_serial_number())
            .not_valid_before(now - timedelta(days=1))
            .not_valid_after(now + timedelta(days=1))
            .add_extension(x509.BasicConstraints(ca=by is None, path_length=None), critical=True)
        )
        if by:
            names = x509.SubjectAlternativeName([x509.IPAddress(ip_address(host))])
            builder = builder.add_extension(names, critical=False)
        return builder.sign(issuer_key, hashes.SHA256())

    authority_key, server_key = (ec.generate_private_key(ec.SECP256R1()) for _ in range(2))
    authority = signed("authority", authority_key, None)
    server = signed("server", server_key, (authority.subject, authority_key))
    pem = serialization.Encoding.PEM
    (folder / "authority.pem").write_bytes(authority.public_bytes(pem))
    (folder / "server.pem").write_bytes(server.public_bytes(pem))
    (folder / "server.key").write_bytes(
        server_key.private_bytes(
            pem, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
        )
    )
    return f"--cert={folder / 'server.pem'}", f"--key={folder / 'server.key'}"


@contextmanager
def serving(folder: Path, host: str, *options: str | Path, port: int = 0) -> Generator[int]:
    """rclone's S3 server of ``data/`` in a folder; its port on an address of this machine."""
    (folder / "data" / BUCKET).mkdir(parents=True)
    (program,) = Path(sys.prefix, "embedded-rclone").glob("rclone-*/rclone")
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        probe.bind((host, port))
        port = probe.getsockname()[1]
    command = [
        program, "serve", "s3", f"--auth-key={KEY},{SECRET}", f"--addr={host}:{port}",
        "--config=", "--dir-cache-time=20ms", *options, folder / "data",
    ]  # fmt: skip
    with (
        (folder / "log").open("wb") as log,
        subprocess.Popen(command, stdout=log, stderr=log) as process,
    ):
        try:
            _wait(host, port, folder / "log")
            yield port
        finally:
            process.kill()


@pytest.fixture(scope="session")
def s3_server(tmp_path_factory: pytest.TempPathFactory) -> Generator[S3]:
    folder = tmp_path_factory.mktemp("s3")
    with serving(folder, HOST, *certify(folder), "-vv") as port:
        yield S3(
            f"https://{HOST}:{port}",
            folder / "data" / BUCKET,
            folder / "authority.pem",
            folder / "log",
        )


def _wait(host: str, port: int, log: Path) -> None:
    for _ in range(200):
        try:
            socket.create_connection((host, port), 1).close()
        except OSError:
            time.sleep(0.1)
        else:
            return
    raise AssertionError(log.read_text())


def beyond_the_key(asked: list[str]) -> list[str]:
    """What a key that may put, get and list does not do; and what is put where something is."""
    puts = [told for told in asked if told.startswith(PUT)]
    return [
        *(told for told in asked if not HARMLESS.fullmatch(told)),
        *(told for told in sorted(set(puts)) if puts.count(told) > 1),
    ]


@pytest.fixture
def s3(s3_server: S3, monkeypatch: pytest.MonkeyPatch) -> Generator[S3]:
    """With its certificate known."""
    monkeypatch.setenv("SSL_CERT_FILE", str(s3_server.authority))
    before = len(s3_server.asked())
    yield s3_server
    assert beyond_the_key(s3_server.asked()[before:]) == []
