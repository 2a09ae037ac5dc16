"""What Alembic runs; ``rul_store.database.migrate`` gives the connection, inside a transaction."""

from alembic import context

from rul_store.database import VERSION_TABLE
from rul_store.tables import metadata

context.configure(
    connection=context.config.attributes["connection"],
    target_metadata=metadata,
    version_table=VERSION_TABLE,
)
with context.begin_transaction():
    context.run_migrations()
