"""What the assets of backups are handed, made from the environment.

What belongs here: making them and giving them back. What does not: anything that they do.
"""

from collections.abc import Generator
from datetime import UTC, datetime

import dagster as dg

from rul_backup.keeping import Backups
from rul_backup.reading import BackupSettings
from rul_backup.runs import Run
from rul_backup.streams import Pace
from rul_store.database import connect
from rul_store.settings import StoreSettings


@dg.resource
def backups() -> Generator[Backups]:
    """The platform's backups (``RUL_BACKUP_…``), made at a pace that lets others work."""
    settings, backup_settings = StoreSettings(), BackupSettings()
    engine = connect(settings.database_url.get_secret_value(), pool_size=2)
    redis_url = settings.redis_url.get_secret_value() if settings.redis_url else None
    try:
        pace = Pace(backup_settings.backup_share)
        yield Backups(settings.root, backup_settings, engine, redis_url, pace)
    finally:
        engine.dispose()


class Underway:
    """The run of backups that a run of Dagster's makes: its assets share one process.

    Args:
        backups: Whose.
    """

    def __init__(self, backups: Backups) -> None:
        self._backups = backups
        self._run: Run | None = None

    @property
    def run(self) -> Run:
        """Begun when somebody asks for it.

        Raises:
            StoreError: There is no room for it.
            SettingsError: A key is missing.
        """
        if self._run is None:
            self._run = self._backups.begin(datetime.now(UTC))
        return self._run

    def end(self) -> None:
        """Leave nothing behind of a run that was not sealed."""
        if self._run is not None:
            self._run.discard()


@dg.resource(required_resource_keys={"backups"})
def underway(context: dg.InitResourceContext) -> Generator[Underway]:
    """The run of backups that is being made."""
    made = Underway(context.resources.backups)
    try:
        yield made
    finally:
        made.end()
