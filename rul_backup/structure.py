"""Whether what was kept is of the form that its restoring needs, from its first byte to its last.

What belongs here: reading a dump, a copy of Redis and a tar to their ends. What does not: whether
the bytes are those that were kept (``verification``), restoring them (``drill``).

A program that broke off in silence while it was kept leaves something with the right checksum; only
who reads it as what it shall be sees that.
"""

import shutil
import subprocess
import tarfile
from typing import BinaryIO

from rul_backup import programs, redis_copy, stack
from rul_backup.manifest import Artefact, Kind
from rul_core.errors import SettingsError

_TAR_END = 2 * tarfile.BLOCKSIZE
_RDB_EOF, _RDB_END = 0xFF, 9
"""An RDB file ends with this opcode and a checksum of eight bytes."""


def problem(artefact: Artefact, plain: BinaryIO) -> str:
    """What is wrong with the form of a thing; nothing where it is whole.

    Args:
        artefact: What it shall be.
        plain: Its bytes, a file of the operating system; read from its beginning.

    Raises:
        SettingsError: PostgreSQL's programs are not here.
    """
    plain.seek(0)
    match artefact.kind:
        case Kind.POSTGRES | Kind.DAGSTER:
            return _of_dump(artefact, plain)
        case Kind.REDIS:
            return _of_redis(plain)
        case Kind.MODELS | Kind.BASE:
            return _of_tar(artefact, plain)
        case Kind.STACK:
            return _of_tar(artefact, plain) or stack.problem(artefact, plain)


def _of_dump(artefact: Artefact, plain: BinaryIO) -> str:
    # Its list of contents stands at its beginning; to write it all out reads that and all the rest.
    program = programs.path_of("pg_restore", artefact.facts.get("server", 0))
    return _refused("pg_restore", [program, "--file=/dev/null"], plain)


def _of_redis(plain: BinaryIO) -> str:
    if shutil.which("redis-check-rdb"):
        return _refused("redis-check-rdb", ["redis-check-rdb", "/dev/stdin"], plain)
    try:
        server = redis_copy.program()
    except SettingsError:
        return _of_redis_by_its_ends(plain)
    # The server checks a file instead of serving when it is called so.
    return _refused("redis-check-rdb", ["redis-check-rdb", "/dev/stdin"], plain, server)


def _of_redis_by_its_ends(plain: BinaryIO) -> str:
    content_begins = plain.read(5) == b"REDIS"
    size = plain.seek(0, 2)
    plain.seek(max(0, size - _RDB_END))
    if content_begins and size > _RDB_END and plain.read(1)[0] == _RDB_EOF:
        return ""
    return "is no whole RDB file: it has not the beginning and the end of one"


def _of_tar(artefact: Artefact, plain: BinaryIO) -> str:
    try:
        with tarfile.open(fileobj=plain, mode="r:") as archive:
            members = archive.getmembers()
    except tarfile.TarError as error:
        return f"is no whole tar: {error}"
    end = 0
    if members:
        last = members[-1]
        end = last.offset_data + -(-last.size // tarfile.BLOCKSIZE) * tarfile.BLOCKSIZE
    plain.seek(end)
    # Where a header is damaged or missing, reading a tar ends as if there were no more.
    if plain.read(_TAR_END + 1) != b"\0" * _TAR_END:
        return f"is no whole tar: it does not end after its {len(members)} files"
    wanted = artefact.facts.get("files", len(members))
    if wanted != len(members):
        return f"is a tar of {len(members)} files where {wanted} were kept"
    return ""


def _refused(name: str, command: list[str], plain: BinaryIO, program: str | None = None) -> str:
    """What a program says against what it is given; nothing where it takes it."""
    done = subprocess.run(  # noqa: S603 - programs of the system, or of our own environment
        command,
        executable=program,
        stdin=plain,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        check=False,
    )
    if not done.returncode:
        return ""
    said = " ".join(done.stdout.decode(errors="replace").split())
    return f"is not whole: {name} says: {said[-500:]}"
