"""A process that writes ten rows a second, tells when each was acknowledged, and is killed.

    python -m benchmarks.backups_writer URL NAME

What belongs here: that process, and what starts, kills and reads it. What does not: when
(``backups_losses``).
"""

import itertools
import signal
import subprocess
import sys
import time

import psycopg
from sqlalchemy.engine import make_url

WRITE_SECONDS = 0.1
FLEET = "written"


class Writer:
    """Such a process; it writes once it is told to.

    Args:
        url: Of the platform's database.
        name: With which the rows begin.
    """

    def __init__(self, url: str, name: str) -> None:
        command = [sys.executable, "-m", "benchmarks.backups_writer", url, name]
        self._process = subprocess.Popen(  # noqa: S603 - this module
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )

    def write(self) -> None:
        """Begin, where it is connected; or as soon as it is."""
        assert self._process.stdin is not None  # noqa: S101 - for the types
        self._process.stdin.write("\n")
        self._process.stdin.flush()

    def kill(self) -> tuple[float, dict[str, float]]:
        """When it was killed, and of each row when it was acknowledged before that.

        Raises:
            RuntimeError: It had ended before.
        """
        self._process.send_signal(signal.SIGKILL)
        killed_at = time.monotonic()
        told, _ = self._process.communicate()
        if self._process.returncode != -signal.SIGKILL:
            raise RuntimeError(f"the writer ended by itself, with {self._process.returncode}")
        whole = told[: told.rfind("\n") + 1]
        rows = (line.split() for line in whole.splitlines())
        return killed_at, {row: float(at) for row, at in rows}


def main() -> None:
    """Write until killed."""
    url, name = sys.argv[1:]
    plain = make_url(url).set(drivername="postgresql").render_as_string(hide_password=False)
    with psycopg.connect(plain, autocommit=True) as connection:
        sys.stdin.readline()
        following = time.monotonic()
        for number in itertools.count():
            row = f"{name}-{number:06d}"
            insert = "INSERT INTO units (fleet, unit) VALUES (%s, %s)"
            connection.execute(insert, (FLEET, row))
            print(row, time.monotonic(), flush=True)
            following += WRITE_SECONDS
            time.sleep(max(0.0, following - time.monotonic()))


if __name__ == "__main__":
    main()
