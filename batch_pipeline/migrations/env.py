"""Alembic's environment: migrates on the connection that `batch_pipeline.migrations.upgrade` passes."""

from alembic import context

connection = context.config.attributes["connection"]
context.configure(connection=connection, version_table="batch_pipeline_schema", transaction_per_migration=True)
with context.begin_transaction():
    context.run_migrations()
