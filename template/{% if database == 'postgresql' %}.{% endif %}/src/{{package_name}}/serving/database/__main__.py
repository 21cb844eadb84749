"""The schema of the database: `python -m PACKAGE.serving.database migrate|create NAME|sql`.

`migrate` applies the migrations that the database lacks, before a new version starts. `create`
writes one from what the models say, `sql` prints the statements of all of them. Exits with status
0, or with 1 or 3 (the settings) and a line for each fault on stderr.
"""

import argparse
import sys

from alembic.util import CommandError

from ..settings import load
from .migrate import MigrationError, create, migrate, print_sql
from .settings import DatabaseSettings


def main() -> None:
    """Do what is asked for."""
    parser = argparse.ArgumentParser(
        prog=f"python -m {__package__}", description="The schema of the database."
    )
    commands = parser.add_subparsers(dest="command", required=True)
    commands.add_parser("migrate", help="apply the migrations that the database lacks")
    named = commands.add_parser("create", help="write a migration from what the models say")
    named.add_argument("name", help="what it does, in a few words")
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
