"""Where the command finds its servers: those the environment names, or embedded ones.

What belongs here: the laptop's folder ``.rul/`` and what runs in it. What does not: the servers
themselves (``rul_store.embedded``), the container stack, which names its servers by settings.
"""

import getpass
import os
from collections.abc import Generator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:  # they take a second, which most commands do without
    import redis
    import sqlalchemy as sa

    from rul_store.settings import StoreSettings

DEFAULT_ROOT = Path(".rul")
NAMED_FOR_CHILDREN = ("RUL_ROOT", "RUL_DATABASE_URL", "RUL_REDIS_URL")


@dataclass(frozen=True)
class Laptop:
    """A data root with servers that answer."""

    settings: "StoreSettings"
    engine: "sa.Engine"

    @property
    def root(self) -> Path:
        """The data root."""
        return self.settings.root

    @property
    def redis_client(self) -> "redis.Redis | None":
        """A client, where Redis is configured."""
        from rul_store.cache import connect_redis

        url = self.settings.redis_url
        return connect_redis(url.get_secret_value()) if url else None

    @cached_property
    def dagster_home(self) -> Path:
        """Dagster's own folder; made when somebody asks for it, for most commands do not."""
        return _dagster_home(self.settings)

    def environment(self) -> dict[str, str]:
        """The environment that the platform's other programs start with here.

        Raises:
            SettingsError: One of their settings is wrong, which else only their logs would tell.
        """
        from rul_assets.settings import AssetsSettings
        from rul_serving.settings import ServingSettings

        AssetsSettings()
        ServingSettings(**dict(self.settings))
        url = self.settings.redis_url
        # A setting and the file that it may stand in must not both be given.
        files = {f"{name}_FILE" for name in NAMED_FOR_CHILDREN}
        return {
            **{name: value for name, value in os.environ.items() if name not in files},
            "RUL_ROOT": str(self.root),
            "RUL_DATABASE_URL": self.settings.database_url.get_secret_value(),
            **({"RUL_REDIS_URL": url.get_secret_value()} if url else {}),
            "DAGSTER_HOME": str(self.dagster_home),
            "DAGSTER_DISABLE_TELEMETRY": "1",
        }


@contextmanager
def opened(root: Path | None = None, *, migrated: bool = True) -> Generator[Laptop]:
    """The data root and its servers; embedded servers are started where none is named.

    Args:
        root: That folder; as the environment says unless given.
        migrated: Whether the database must have the tables of this version of the platform; they
            are made.

    Raises:
        SettingsError: A setting is wrong.
        StoreError: A server does not start or answer.
    """
    from rul_store import database
    from rul_store.embedded import EmbeddedServers
    from rul_store.settings import StoreSettings

    with ExitStack() as stack:
        named = root or Path(os.environ.get("RUL_ROOT") or DEFAULT_ROOT)
        if os.environ.get("RUL_DATABASE_URL") or os.environ.get("RUL_DATABASE_URL_FILE"):
            settings = StoreSettings(root=named)
        else:
            servers = stack.enter_context(EmbeddedServers(named / "servers"))
            settings = StoreSettings.model_validate(
                {
                    "root": named,
                    "database_url": servers.database_url,
                    "redis_url": servers.redis_url,
                }
            )
        engine = database.connect(settings.database_url.get_secret_value())
        stack.callback(engine.dispose)
        if migrated:
            database.migrate(engine)
        yield Laptop(settings, engine)


def user() -> str:
    """Who types; in a container the number may be all there is."""
    try:
        return getpass.getuser()
    except (KeyError, OSError):
        return f"user {os.getuid()}"


def _dagster_home(settings: "StoreSettings") -> Path:
    """A folder with the laptop's ``dagster.yaml``: history in a database beside the platform's."""
    import sqlalchemy as sa

    from rul_store import database
    from rul_store.files import make_folder

    home = settings.root / "dagster"
    make_folder(home)
    url = database.create_database(settings.database_url.get_secret_value(), "dagster")
    dialect = "postgresql+psycopg2"  # all that dagster-postgres speaks
    plain = sa.make_url(url).set(drivername=dialect).render_as_string(hide_password=False)
    (home / "dagster.yaml").write_text(
        "# Written by `rul dev` and `rul demo`; the stack's own is at the project's root.\n"
        f"storage: {{postgres: {{postgres_url: '{plain}'}}}}\n"
        "run_monitoring: {enabled: true, poll_interval_seconds: 30}\n"
        "concurrency: {runs: {max_concurrent_runs: 2}}\n"
        "telemetry: {enabled: false}\n"
        "nux: {enabled: false}\n"
    )
    return home
