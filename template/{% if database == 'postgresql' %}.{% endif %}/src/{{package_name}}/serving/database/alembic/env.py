"""Alembic runs this for each command, but not as part of the package: see ../environment.py."""

from alembic import context

context.config.attributes["run"]()
