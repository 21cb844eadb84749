"""What Alembic runs for each command: it knows no package, so the code is in ../environment.py."""

from alembic import context

context.config.attributes["run"]()
