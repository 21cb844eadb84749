"""Alembic executes this file outside the package for each command: see ../environment.py."""

from alembic import context

context.config.attributes["run"]()
