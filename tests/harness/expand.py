"""A service with a database and its next version, whose migration adds a column."""

from pathlib import Path

from .project import Project

WRITE = '''

@router.post("/written")
async def write(session: DatabaseSession) -> int:
    """Store a note and read it back."""
    note = Note(text="written")
    session.add(note)
    await session.flush()
    await session.refresh(note)
    return note.id
'''
PATHS = ("POST /notes/written", "/notes/1")
"""A load that writes and reads."""

ROLE = """
CREATE ROLE service LOGIN;
ALTER DEFAULT PRIVILEGES IN SCHEMA public GRANT SELECT, INSERT, UPDATE, DELETE ON TABLES TO service;
ALTER DEFAULT PRIVILEGES IN SCHEMA public GRANT USAGE ON SEQUENCES TO service;
"""
"""A role for the service, which does not own its tables."""

MIGRATION = '''"""Colours of notes."""

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"


def upgrade() -> None:
    """Apply it. The previous version is still running, so only add; remove in a later version."""
    op.add_column("notes", sa.Column("colour", sa.Text(), nullable=True))


def downgrade() -> None:
    """Revert it. A rollback of the service does not run this."""
    op.drop_column("notes", "colour")
'''
COLUMN = "    colour: Mapped[str | None] = mapped_column(Text)\n"


def write_routes(project: Project) -> None:
    """Add the route of `PATHS` to the example."""
    routes = project.path / "src" / project.package / "routes/notes.py"
    routes.write_text(routes.read_text() + WRITE)


def next_version(package: Path) -> None:
    """Change the package of the service to a version that writes a new column."""
    (package / "migrations/0002_colours.py").write_text(MIGRATION)
    models = package / "models.py"
    models.write_text(models.read_text() + COLUMN)
    routes = package / "routes/notes.py"
    text = routes.read_text()
    assert 'Note(text="written")' in text
    routes.write_text(text.replace('Note(text="written")', 'Note(text="written", colour="red")'))


def counts(rows: list[str]) -> tuple[int, int]:
    """Return the notes of the first and of the second version, from the rows of `COUNT`."""
    [row] = rows
    first, second = row.split("|")
    return int(first), int(second)


COUNT = (
    "SELECT count(*) FILTER (WHERE colour IS NULL), count(colour) FROM notes WHERE text = 'written'"
)
