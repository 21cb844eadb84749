"""Alembic's migration environment."""

from collections.abc import Iterable, Mapping
from importlib import import_module
from importlib.util import find_spec
from typing import Any

from alembic import context
from alembic.operations import MigrationScript
from alembic.runtime.migration import MigrationContext, MigrationInfo
from alembic.util import CommandError

MODELS = f"{__name__.rpartition('.serving.')[0]}.models"


def metadata() -> Any:
    """Return `Base.metadata` of the service's models, or None if it has no models."""
    return import_module(MODELS).Base.metadata if find_spec(MODELS) else None


def run() -> None:
    """Run the migrations of a command on its connection, or print them without one."""
    attributes = context.config.attributes
    connection = attributes.get("connection")

    def report(
        ctx: MigrationContext, step: MigrationInfo, heads: object, run_args: Mapping[str, Any]
    ) -> None:
        if "report" in attributes:
            attributes["report"](f"applied {step.up_revision_id}")

    context.configure(
        connection=connection,
        dialect_name=None if connection else "postgresql",
        target_metadata=metadata(),
        literal_binds=connection is None,
        transaction_per_migration=True,  # locks are released after each migration
        on_version_apply=report,
        process_revision_directives=reject_empty,
    )
    with context.begin_transaction():
        context.run_migrations()


def reject_empty(_: MigrationContext, __: Any, directives: Iterable[MigrationScript]) -> None:
    """Raise `CommandError` if the models match the database, instead of writing a migration."""
    for script in directives:
        if script.upgrade_ops is None or script.upgrade_ops.is_empty():
            raise CommandError("the models match the database: there is nothing to migrate")
