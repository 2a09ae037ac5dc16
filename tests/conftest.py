"""Real servers for the tests: one PostgreSQL and one Redis a session (a worker, under xdist).

``engine`` and ``database_url`` give each test a migrated database of its own, ``redis_url`` an
empty Redis. Property tests draw the same examples every time (see ``HYPOTHESIS_PROFILE`` below).
"""

import os
import shutil
import uuid
from collections.abc import Generator
from pathlib import Path

import psutil
import pytest
import redis
import sqlalchemy as sa
from hypothesis import settings

from rul_store.database import begin, connect, create_database, migrate
from rul_store.embedded import EmbeddedServers
from rul_store.rights import Group
from rul_store.roles import make_user

TEMPLATE = "rul_template"

# The same examples each time, so that a change is judged by what it changed; `make fuzz` looks
# for new ones.
settings.register_profile("same", derandomize=True, deadline=None)
settings.register_profile("fresh", deadline=None)
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "same"))


MEMORY, ENOUGH_BYTES = Path("/dev/shm"), 8 << 30  # noqa: S108 - pytest makes a folder of its own


def pytest_configure() -> None:
    """Let temporary folders lie in memory, where there is enough of it.

    Each test has a database of its own, and making one waits for a disk more than for all else.
    """
    if MEMORY.is_dir():
        may_run = not os.statvfs(MEMORY).f_flag & os.ST_NOEXEC
        free_bytes = min(shutil.disk_usage(MEMORY).free, psutil.virtual_memory().available)
        if may_run and free_bytes >= ENOUGH_BYTES:
            os.environ.setdefault("PYTEST_DEBUG_TEMPROOT", str(MEMORY))


@pytest.fixture(scope="session")
def servers(tmp_path_factory: pytest.TempPathFactory) -> Generator[EmbeddedServers]:
    with EmbeddedServers(tmp_path_factory.mktemp("servers"), durable=False) as running:
        template = connect(create_database(running.database_url, TEMPLATE))
        migrate(template)
        for group in Group:
            make_user(template, f"{group}_test", group, "a password")
        template.dispose()
        yield running


@pytest.fixture
def database_url(servers: EmbeddedServers) -> Generator[str]:
    name = f"test_{uuid.uuid4().hex}"
    yield create_database(servers.database_url, name, template=TEMPLATE)
    admin = connect(servers.database_url).execution_options(isolation_level="AUTOCOMMIT")
    with begin(admin) as connection:
        connection.execute(sa.text(f"DROP DATABASE {name} WITH (FORCE)"))
    admin.dispose()


@pytest.fixture
def serving_url(database_url: str) -> str:
    """The same database for a user who may do what serving may, and nothing else."""
    return as_member_of(Group.SERVING, database_url)


def as_member_of(group: Group, url: str) -> str:
    """The URL of a database, for a user with a group's rights."""
    return sa.make_url(url).set(username=f"{group}_test").render_as_string(hide_password=False)


@pytest.fixture
def engine(database_url: str) -> Generator[sa.Engine]:
    made = connect(database_url)
    yield made
    made.dispose()


@pytest.fixture
def redis_url(servers: EmbeddedServers) -> str:
    with redis.Redis.from_url(servers.redis_url) as client:
        client.flushall()
    return servers.redis_url


@pytest.fixture(autouse=True)
def _no_setting_outlives_a_test() -> Generator[None]:
    before = {name: value for name, value in os.environ.items() if name.startswith("RUL_")}
    yield
    after = {name: value for name, value in os.environ.items() if name.startswith("RUL_")}
    assert after == before, "a test left settings behind for the next one"
