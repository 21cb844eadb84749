"""Bring a database to the schema of this version."""

import asyncio
import re
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

import asyncpg
from alembic import command
from alembic.migration import MigrationContext
from sqlalchemy import Connection, text
from sqlalchemy.exc import DBAPIError
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine, create_async_engine
from sqlalchemy.pool import NullPool

from .engine import CONNECT_SECONDS, sqlstate
from .schema import config, known_revisions, next_revision
from .settings import DatabaseSettings

# Session-level advisory lock: one migration at a time. The key is "migrate" in ASCII.
LOCK_KEY = 0x6D696772617465
# A statement that waits for a lock blocks every statement behind it.
LOCK_MILLISECONDS = 2000
LOCK_ATTEMPTS = 10
LOCK_NOT_AVAILABLE = "55P03"
# The network may let a new process through, or the server be ready, only after some seconds.
CONNECT_ATTEMPTS = 6
# Seconds that another deployment's migration may take.
WAIT_SECONDS = 600


class MigrationError(Exception):
    """The error of a migration, in one line."""


def migrate(settings: DatabaseSettings, say: Callable[[str], None] = print) -> None:
    """Apply pending migrations. Raises `MigrationError`: the one that failed is rolled back, those
    before it are kept."""
    asyncio.run(_migrate(settings, say))


def create(settings: DatabaseSettings, name: str) -> None:
    """Write a migration: the difference between the models and a fully migrated database."""

    def write(connection: Connection) -> None:
        found = config()
        found.attributes["connection"] = connection
        command.revision(found, name, autogenerate=True, rev_id=next_revision())

    async def run() -> None:
        async with engine_of(settings) as engine, engine.connect() as connection:
            await connection.run_sync(write)

    asyncio.run(run())


def print_sql() -> None:
    """Print the statements of all migrations, without a database."""
    command.upgrade(config(), "head", sql=True)


async def _migrate(settings: DatabaseSettings, say: Callable[[str], None]) -> None:
    async with engine_of(settings, say) as engine:
        try:
            # On a separate connection: a migration may end its transaction early.
            async with engine.connect() as connection:
                lock = await connection.execution_options(isolation_level="AUTOCOMMIT")
                await _wait_for_lock(lock, say)
                await _apply(engine, say)
        except (OSError, asyncpg.PostgresError, asyncpg.InterfaceError) as error:
            reason = str(error) or f"no answer within {CONNECT_SECONDS:g} s"
            raise MigrationError(f"no connection: {type(error).__name__}: {reason}") from error
        except DBAPIError as error:
            statement = re.sub(r"\s+", " ", error.statement or "").strip()
            raise MigrationError(f"{error.orig}: {statement}".rstrip(": ")) from error


async def _wait_for_lock(connection: AsyncConnection, say: Callable[[str], None]) -> None:
    """Take the lock by polling: a statement that waits for it would be an open transaction, for
    which CREATE INDEX CONCURRENTLY of the other migration would wait."""
    clock = asyncio.get_running_loop().time
    deadline, is_told = clock() + WAIT_SECONDS, False
    while not await connection.scalar(text("SELECT pg_try_advisory_lock(:key)"), {"key": LOCK_KEY}):
        if clock() > deadline:
            raise MigrationError(f"another migration has run for {WAIT_SECONDS} s")
        if not is_told:
            say("waiting for another migration to end")
        is_told = True
        await asyncio.sleep(0.5)


async def _apply(engine: AsyncEngine, say: Callable[[str], None]) -> None:
    for attempt in range(1, LOCK_ATTEMPTS + 1):
        try:
            async with engine.connect() as connection:
                await connection.run_sync(_upgrade, say)
            return
        except DBAPIError as error:
            if sqlstate(error.orig) != LOCK_NOT_AVAILABLE or attempt == LOCK_ATTEMPTS:
                raise
            say(f"a table is locked: attempt {attempt} of {LOCK_ATTEMPTS}")
        await asyncio.sleep(attempt)


def _upgrade(connection: Connection, say: Callable[[str], None]) -> None:
    found, known = config(), known_revisions()
    before = set(MigrationContext.configure(connection).get_current_heads())
    connection.rollback()
    if not before <= known:
        say(f"the schema is at {', '.join(before)}, newer than this version: nothing to do")
        return
    found.attributes |= {"connection": connection, "say": say}
    command.upgrade(found, "head")
    after = MigrationContext.configure(connection).get_current_heads()
    say(f"the schema is at {', '.join(after) or 'no migration'}")


@asynccontextmanager
async def engine_of(
    settings: DatabaseSettings, say: Callable[[str], None] = print
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
                say(f"no connection yet: {CONNECT_ATTEMPTS} attempts are made")
            attempt += 1
            await asyncio.sleep(1)

    engine = create_async_engine("postgresql+asyncpg://", async_creator=connect, poolclass=NullPool)
    try:
        yield engine
    finally:
        await engine.dispose()
