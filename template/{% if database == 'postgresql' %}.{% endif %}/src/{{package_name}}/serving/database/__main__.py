"""Manage the database schema: `python -m PACKAGE.serving.database migrate|create NAME|sql`.

`migrate` applies pending migrations, before a new version starts. `create` generates a migration
from the models. `sql` prints the statements of all migrations. Exits with status 0, or with 1 or 3
(invalid settings) and one line per fault on stderr.
"""

import argparse
import sys

from alembic.util import CommandError

from ..settings import load
from .migrate import MigrationError, create, migrate, print_sql
from .settings import DatabaseSettings


def main() -> None:
    """Run the command in `sys.argv`."""
    parser = argparse.ArgumentParser(
        prog=f"python -m {__package__}", description="Manage the database schema."
    )
    commands = parser.add_subparsers(dest="command", required=True)
    commands.add_parser("migrate", help="apply pending migrations")
    create_parser = commands.add_parser("create", help="generate a migration from the models")
    create_parser.add_argument("name", help="what it does, in a few words")
    commands.add_parser("sql", help="print the statements of all migrations")
    arguments = parser.parse_args()
    try:
        if arguments.command == "sql":
            print_sql()
        elif arguments.command == "create":
            create(load(DatabaseSettings), arguments.name)
        else:
            migrate(load(DatabaseSettings))
    except (MigrationError, CommandError) as error:
        print(f"{arguments.command}: {error}", file=sys.stderr)
        raise SystemExit(1) from None


if __name__ == "__main__":
    main()
