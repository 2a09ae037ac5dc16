"""Dagster's database put back, on a machine where nobody has lived yet.

What belongs here: this database. What does not: the platform's (``live``), which is exchanged also
where it lives; the stack's volumes (``docker/scripts/restore.sh``).

It is restored beside and compared first, and only then takes the place of one in which there is no
run: who is killed meanwhile asks for the same again.
"""

import sqlalchemy as sa
from sqlalchemy.dialects import postgresql

from rul_backup import drill, fingerprints
from rul_backup.live import Asked, run_alone
from rul_backup.manifest import Kind
from rul_core.errors import StoreError
from rul_store.database import begin, create_database, engine_of
from rul_store.provisioning import DAGSTER, DATABASES, MAINTENANCE, rights_on

_BESIDE = f"{DAGSTER}_restoring"
_FORGET_ASKED = "DELETE FROM run_tags WHERE key = 'dagster/run_key'"
"""A sensor asks once for what is new, and knows by these that it has. What came of that is lost
with the lake, so it asks again where the same files are dropped again, say."""
_quote = postgresql.dialect().identifier_preparer.quote


def put_back_dagster(asked: Asked, admin_url: str) -> int | None:
    """Put Dagster's database in the place of one that has no run yet, or of none.

    Args:
        asked: The run that kept it.
        admin_url: A superuser's, of any database of the server; its roles are there.

    Returns:
        How many runs it has; none where the run kept no such database, and nothing was changed.

    Raises:
        StoreError: Dagster's database has runs, or what was kept is damaged; then it is as it was.
        Unavailable: PostgreSQL does not answer.
    """
    kept = [one for one in asked.run.manifest.artefacts if one.kind is Kind.DAGSTER]
    if not kept:
        return None
    with engine_of(admin_url, MAINTENANCE) as admin:
        if count := _count_runs(admin, admin_url):
            raise StoreError(
                f"the database {DAGSTER} has {count:,} runs and stays as it is; to have the kept "
                "one in its place, stop Dagster's services and drop that database first"
            )
        owner, _ = DATABASES[DAGSTER]
        run_alone(admin, f"DROP DATABASE IF EXISTS {_quote(_BESIDE)} WITH (FORCE)")
        url = create_database(admin_url, _BESIDE)
        run_alone(admin, f"ALTER DATABASE {_quote(_BESIDE)} OWNER TO {_quote(owner)}")
        drill.restore_database(asked.shelf, asked.run, kept[0], url, asked.identities, owner)
        drill.refuse_otherwise(kept[0].name, url, kept[0].facts)
        with engine_of(url) as beside, begin(beside) as connection:
            connection.execute(sa.text(_FORGET_ASKED))
        run_alone(admin, f"DROP DATABASE IF EXISTS {_quote(DAGSTER)} WITH (FORCE)")
        run_alone(admin, f"ALTER DATABASE {_quote(_BESIDE)} RENAME TO {_quote(DAGSTER)}")
        for statement in rights_on(DAGSTER):
            run_alone(admin, statement)
        return _count_runs(admin, admin_url)


def _count_runs(admin: sa.Engine, admin_url: str) -> int:
    """Of Dagster, as its database has them now; 0 too where it or its tables are not there."""
    with begin(admin) as connection:
        is_there = connection.execute(
            sa.text("SELECT count(*) FROM pg_database WHERE datname = :name"), {"name": DAGSTER}
        ).scalar_one()
    if not is_there:
        return 0
    with engine_of(admin_url, DAGSTER) as engine, begin(engine) as connection:
        if "public.runs" not in fingerprints.tables_of(connection):
            return 0
        return connection.execute(sa.text("SELECT count(*) FROM runs")).scalar_one()
