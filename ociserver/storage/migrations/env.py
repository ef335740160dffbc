"""Run by Alembic, on the connection that `revisions.upgrade` was given."""

from alembic import context

context.configure(
    connection=context.config.attributes["connection"], transaction_per_migration=False
)
context.run_migrations()
