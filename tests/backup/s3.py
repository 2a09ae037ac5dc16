"""A real S3 server (rclone's) with TLS, in a folder of its own; its files can be spoilt."""

import json
import socket
import subprocess
import sys
import time
from collections.abc import Generator
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


class S3(NamedTuple):
    """What speaks S3."""

    endpoint: str
    files: Path
    """What is in the bucket."""
    authority: Path
    """The certificate by which it is known."""

    def options(self, **others: str) -> str:
        """As RUL_BACKUP_OFFSITE_OPTIONS has them."""
        told = {"endpoint": self.endpoint, "region": "us-east-1", "access_key_id": "keeper",
                "secret_access_key": "s3cret"}  # fmt: skip
        return json.dumps(told | others)

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


def certify(folder: Path) -> None:
    """Make an authority, and a server of this machine that it vouches for."""
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
            names = x509.SubjectAlternativeName([x509.IPAddress(ip_address(HOST))])
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


@pytest.fixture(scope="session")
def s3_server(tmp_path_factory: pytest.TempPathFactory) -> Generator[S3]:
    folder = tmp_path_factory.mktemp("s3")
    certify(folder)
    (folder / "data" / BUCKET).mkdir(parents=True)
    (program,) = Path(sys.prefix, "embedded-rclone").glob("rclone-*/rclone")
    with socket.socket() as probe:
        probe.bind((HOST, 0))
        port = probe.getsockname()[1]
    command = [
        program, "serve", "s3", "--auth-key=keeper,s3cret", f"--addr={HOST}:{port}",
        f"--cert={folder / 'server.pem'}", f"--key={folder / 'server.key'}", "--config=",
        "--dir-cache-time=20ms",
        folder / "data",
    ]  # fmt: skip
    with (
        (folder / "log").open("wb") as log,
        subprocess.Popen(command, stdout=log, stderr=log) as process,
    ):
        try:
            _wait(port, folder / "log")
            yield S3(f"https://{HOST}:{port}", folder / "data" / BUCKET, folder / "authority.pem")
        finally:
            process.kill()


def _wait(port: int, log: Path) -> None:
    for _ in range(200):
        try:
            socket.create_connection((HOST, port), 1).close()
        except OSError:
            time.sleep(0.1)
        else:
            return
    raise AssertionError(log.read_text())


@pytest.fixture
def s3(s3_server: S3, monkeypatch: pytest.MonkeyPatch) -> S3:
    """With its certificate known."""
    monkeypatch.setenv("SSL_CERT_FILE", str(s3_server.authority))
    return s3_server
