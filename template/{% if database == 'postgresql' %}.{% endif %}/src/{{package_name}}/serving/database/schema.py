"""The schema that this version requires: its migrations, and the revisions of a database."""

from pathlib import Path

from alembic.config import Config
from alembic.script import ScriptDirectory
from alembic.util import CommandError
from sqlalchemy import text
from sqlalchemy.exc import ProgrammingError

from . import environment
from .engine import Database, sqlstate

PACKAGE = Path(__file__).parents[2]
VERSIONS = PACKAGE / "migrations"
COMMAND = f"python -m {__name__.rpartition('.')[0]} migrate"

UNDEFINED_TABLE = "42P01"


def config() -> Config:
    """Return Alembic's configuration; there is no alembic.ini, because the package is installed."""
    alembic = Config()
    for name, value in {
        "script_location": str(Path(__file__).with_name("alembic")),
        "version_locations": str(VERSIONS),
        "path_separator": "newline",
        "file_template": "%(rev)s_%(slug)s",
    }.items():
        alembic.set_main_option(name, value.replace("%", "%%"))
    alembic.attributes["run"] = environment.run
    return alembic


class Schema:
    """The migrations of this version."""

    def __init__(self) -> None:
        self.script = ScriptDirectory.from_config(config())
        # Empty without migrations; `known_revisions` raises an error for several heads.
        self.heads = self.script.get_heads()

    def fault_of(self, revisions: set[str]) -> str | None:
        """Return a line if a database at these revisions is too old for this version, else None.

        Unknown revisions are newer: the next version migrates before it starts, while this one
        still runs. A rollback relies on that, too.
        """
        known = {script.revision for script in self.script.walk_revisions()}
        if not self.heads or not revisions <= known or set(self.heads) <= revisions:
            return None
        at = ", ".join(sorted(revisions)) or "no migration"
        return (
            f"DATABASE_URL: the schema is at {at}, this version needs "
            f"{', '.join(self.heads)}: {COMMAND}"
        )

    async def fault(self, database: Database) -> str | None:
        """Return `fault_of` the revisions of a database. Raises `DatabaseUnavailable`."""
        try:
            async with database.session() as session:
                rows = await session.scalars(text("SELECT version_num FROM alembic_version"))
                return self.fault_of(set(rows))
        except ProgrammingError as error:
            if sqlstate(error.orig) == UNDEFINED_TABLE:
                return self.fault_of(set())
            return f"DATABASE_URL: alembic_version can't be read: {error.orig}"


def known_revisions() -> set[str]:
    """Return the revisions of this version. Raises `CommandError` if there are two heads."""
    script = ScriptDirectory.from_config(config())
    if len(heads := script.get_heads()) > 1:
        raise CommandError(f"{' and '.join(heads)} are both heads: let one follow the other")
    return {revision.revision for revision in script.walk_revisions()}


def next_revision() -> str:
    """Return the number of the next migration."""
    return f"{len(known_revisions()) + 1:04}"
