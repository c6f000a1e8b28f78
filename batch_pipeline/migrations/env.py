"""Alembic's environment: migrates on the connection that `batch_pipeline.migrations.upgrade` passes."""

from alembic import context

from batch_pipeline.migrations.revisions import VERSION_TABLE

connection = context.config.attributes["connection"]
context.configure(connection=connection, version_table=VERSION_TABLE, transaction_per_migration=True)
with context.begin_transaction():
    context.run_migrations()
