"""How Alembic runs migrations here."""

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
    """`Base.metadata` of the service's models; None where there are none."""
    return import_module(MODELS).Base.metadata if find_spec(MODELS) else None


def run() -> None:
    """Run the migrations of a command: on its connection, or as statements that are printed."""
    attributes = context.config.attributes
    connection = attributes.get("connection")

    def tell(
        ctx: MigrationContext, step: MigrationInfo, heads: object, run_args: Mapping[str, Any]
    ) -> None:
        if "say" in attributes:
            attributes["say"](f"applied {step.up_revision_id}")

    context.configure(
        connection=connection,
        dialect_name=None if connection else "postgresql",
        target_metadata=metadata(),
        literal_binds=connection is None,
        transaction_per_migration=True,  # a lock lasts no longer than its own migration
        on_version_apply=tell,
        process_revision_directives=refuse_empty,
    )
    with context.begin_transaction():
        context.run_migrations()


def refuse_empty(_: MigrationContext, __: Any, directives: Iterable[MigrationScript]) -> None:
    """Write no migration when the models say what the database has."""
    for script in directives:
        if script.upgrade_ops is None or script.upgrade_ops.is_empty():
            raise CommandError("the models say nothing that the database lacks")
