"""``/v1/system``: how it stands with the platform itself."""

from litestar import get
from litestar.di import NamedDependency

from rul_serving import examples
from rul_serving.answers import Backups
from rul_serving.principal import READ
from rul_serving.problems import Kind, declared
from rul_serving.service import Service
from rul_store import backup_rows


@get(
    "/system/backups",
    operation_id="getBackups",
    summary="What is kept, and whether it has been restored",
    tags=["service"],
    opt={"roles": READ},
    responses=examples.shown(examples.BACKUPS, "Every store") | declared(Kind.UNAVAILABLE),
)
async def get_backups(service: NamedDependency[Service]) -> Backups:
    """Of every place where backups lie: the newest, and what the last drill found.

    What was written after `newest.started_at` is in no run yet. A drill restores a run,
    compares every table with what was kept, lets champions compute again what they said, and
    recovers what PostgreSQL's log leads to, where one is kept, until `log_reaches_at`:
    `last_proven` is the newest that was the same. It took `seconds`, and would have lost what was
    written in `recovery_point_seconds`.
    """
    return Backups(stores=await service.database.ask(backup_rows.standings))
