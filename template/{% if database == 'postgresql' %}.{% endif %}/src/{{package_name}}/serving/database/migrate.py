"""Migrate a database to the schema of this version."""

import asyncio
import re
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

import asyncpg
from alembic import command
from alembic.migration import MigrationContext
from sqlalchemy import Connection, event, text
from sqlalchemy.exc import DBAPIError
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine, create_async_engine
from sqlalchemy.pool import NullPool

from .engine import CONNECT_SECONDS, sqlstate
from .schema import config, known_revisions, next_revision
from .settings import DatabaseSettings

# Session-level advisory lock: one migration at a time. The key is "migrate" in ASCII.
LOCK_KEY = 0x6D696772617465
# A statement that waits for a lock blocks all statements queued behind it.
LOCK_MILLISECONDS = 2000
LOCK_ATTEMPTS = 10
LOCK_NOT_AVAILABLE = "55P03"
# Such a statement waits for older transactions, and blocks no others. Ended by the lock timeout, it
# would leave an invalid index.
CONCURRENTLY = re.compile(r"\s*(?:ALTER|CREATE|DROP|REFRESH|REINDEX)\b[^;']*\bCONCURRENTLY\b", re.I)
# Network policies and a starting server may reject connections in the first seconds.
CONNECT_ATTEMPTS = 6
# Seconds to wait for another deployment's migration.
WAIT_SECONDS = 600


class MigrationError(Exception):
    """A failed migration, described in one line."""


def migrate(settings: DatabaseSettings, report: Callable[[str], None] = print) -> None:
    """Apply pending migrations; `report` receives progress messages.

    Raises `MigrationError` if one fails: it is rolled back, the ones before it stay applied.
    """
    asyncio.run(_migrate(settings, report))


def create(settings: DatabaseSettings, name: str) -> None:
    """Generate a migration from the models and a fully migrated database.

    Raises `CommandError` if they do not differ.
    """

    def write(connection: Connection) -> None:
        alembic = config()
        alembic.attributes["connection"] = connection
        command.revision(alembic, name, autogenerate=True, rev_id=next_revision())

    async def run() -> None:
        async with engine_of(settings) as engine, engine.connect() as connection:
            await connection.run_sync(write)

    asyncio.run(run())


def print_sql() -> None:
    """Print the statements of all migrations, without a database."""
    command.upgrade(config(), "head", sql=True)


async def _migrate(settings: DatabaseSettings, report: Callable[[str], None]) -> None:
    async with engine_of(settings, report) as engine:
        try:
            # On a separate connection: a migration may end its transaction early.
            async with engine.connect() as connection:
                lock = await connection.execution_options(isolation_level="AUTOCOMMIT")
                await _wait_for_lock(lock, report)
                await _apply(engine, report)
        except (OSError, asyncpg.PostgresError, asyncpg.InterfaceError) as error:
            reason = str(error) or f"no response within {CONNECT_SECONDS:g} s"
            raise MigrationError(f"no connection: {type(error).__name__}: {reason}") from error
        except DBAPIError as error:
            statement = re.sub(r"\s+", " ", error.statement or "").strip()
            raise MigrationError(f"{error.orig}: {statement}".rstrip(": ")) from error


async def _wait_for_lock(connection: AsyncConnection, report: Callable[[str], None]) -> None:
    """Acquire the lock by polling.

    A statement that waits for the lock would be an open transaction, and block CREATE INDEX
    CONCURRENTLY of the other migration.
    """
    clock = asyncio.get_running_loop().time
    deadline, is_reported = clock() + WAIT_SECONDS, False
    while not await connection.scalar(text("SELECT pg_try_advisory_lock(:key)"), {"key": LOCK_KEY}):
        if clock() > deadline:
            raise MigrationError(f"another migration has run for {WAIT_SECONDS} s")
        if not is_reported:
            report("waiting for another migration to end")
        is_reported = True
        await asyncio.sleep(0.5)


async def _apply(engine: AsyncEngine, report: Callable[[str], None]) -> None:
    for attempt in range(1, LOCK_ATTEMPTS + 1):
        try:
            async with engine.connect() as connection:
                await connection.run_sync(_upgrade, report)
            return
        except DBAPIError as error:
            if sqlstate(error.orig) != LOCK_NOT_AVAILABLE or attempt == LOCK_ATTEMPTS:
                raise
            report(f"a table is locked: attempt {attempt} of {LOCK_ATTEMPTS}")
        await asyncio.sleep(attempt)


def _upgrade(connection: Connection, report: Callable[[str], None]) -> None:
    alembic, known = config(), known_revisions()
    before = set(MigrationContext.configure(connection).get_current_heads())
    connection.rollback()
    if not before <= known:
        report(f"the schema is at {', '.join(before)}, newer than this version: nothing to do")
        return
    alembic.attributes |= {"connection": connection, "report": report}
    command.upgrade(alembic, "head")
    after = MigrationContext.configure(connection).get_current_heads()
    report(f"the schema is at {', '.join(after) or 'no migration'}")


@asynccontextmanager
async def engine_of(
    settings: DatabaseSettings, report: Callable[[str], None] = print
) -> AsyncIterator[AsyncEngine]:
    """Yield an engine for migrations: without a statement timeout, but with a lock timeout."""

    async def connect() -> asyncpg.Connection:
        attempt = 1
        while True:
            try:
                return await asyncpg.connect(
                    settings.dsn,
                    timeout=CONNECT_SECONDS,
                    server_settings={
                        "application_name": "migration",
                        "lock_timeout": str(LOCK_MILLISECONDS),
                    },
                )
            except (OSError, asyncpg.CannotConnectNowError):
                if attempt == CONNECT_ATTEMPTS:
                    raise
            if attempt == 1:
                report(f"no connection yet: {CONNECT_ATTEMPTS} attempts are made")
            attempt += 1
            await asyncio.sleep(1)

    engine = create_async_engine(
        "postgresql+asyncpg://", async_creator=connect, poolclass=NullPool, hide_parameters=True
    )
    event.listen(engine.sync_engine, "before_cursor_execute", wait_for_transactions)
    event.listen(engine.sync_engine, "after_cursor_execute", limit_waiting_again)
    try:
        yield engine
    finally:
        await engine.dispose()


def wait_for_transactions(connection: Connection, _: object, statement: str, *__: object) -> None:
    """Lift the lock timeout before a statement with CONCURRENTLY."""
    if CONCURRENTLY.match(statement):
        _set_lock_timeout(connection, 0)


def limit_waiting_again(connection: Connection, _: object, statement: str, *__: object) -> None:
    """Restore the lock timeout after a statement with CONCURRENTLY."""
    if CONCURRENTLY.match(statement):
        _set_lock_timeout(connection, LOCK_MILLISECONDS)


def _set_lock_timeout(connection: Connection, milliseconds: int) -> None:
    cursor = connection.connection.cursor()
    cursor.execute(f"SET lock_timeout = {milliseconds}")
    cursor.close()
