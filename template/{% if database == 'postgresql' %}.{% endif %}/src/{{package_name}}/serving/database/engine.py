"""The engine of a process: pool, timeouts, and error responses."""

import logging
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from time import perf_counter
from typing import Any

import asyncpg
from anyio import move_on_after
from fastapi import HTTPException
from sqlalchemy import event, text
from sqlalchemy.exc import DBAPIError, DisconnectionError
from sqlalchemy.exc import TimeoutError as PoolTimeoutError
from sqlalchemy.ext.asyncio import AsyncSession, async_sessionmaker, create_async_engine
from sqlalchemy.pool import AsyncAdaptedQueuePool, PoolProxiedConnection

from ..budget import REQUEST_TIMEOUT_SECONDS
from . import metrics
from .settings import DatabaseSettings

logger = logging.getLogger(__name__)

# Seconds to connect, so that an unresponsive server does not consume the request timeout.
CONNECT_SECONDS = 5.0
# Seconds that a request waits for a connection from an exhausted pool, then 503.
POOL_SECONDS = 3.0
# Seconds after which a connection is replaced, so that a failover or a new address is noticed.
RECYCLE_SECONDS = 300
# Seconds to close all connections; the lifespan has 5 seconds to end.
CLOSE_SECONDS = 3.0

QUERY_CANCELED = "57014"
# Prefixes of SQLSTATE: connection exceptions, too many connections, server shutdown or start.
UNAVAILABLE = ("08", "53300", "57P0")


class DatabaseUnavailable(HTTPException):
    """No connection to the database: 503 with `Retry-After`."""

    def __init__(self, detail: str = "The database is not available") -> None:
        super().__init__(503, detail, headers={"Retry-After": "1"})


class Pool(AsyncAdaptedQueuePool):
    """Counts and measures requests that wait for a connection."""

    waiting = 0

    def connect(self) -> PoolProxiedConnection:
        """Return a connection. Raises `DatabaseUnavailable` if none is free within the timeout."""
        started = perf_counter()
        self.waiting += 1
        try:
            return super().connect()
        except PoolTimeoutError:
            raise DatabaseUnavailable("All database connections are in use") from None
        finally:
            self.waiting -= 1
            metrics.WAIT.observe(perf_counter() - started)


class Database:
    """The engine and its sessions, bound to an event loop: the lifespan creates it."""

    def __init__(self, settings: DatabaseSettings) -> None:
        limit, longest = settings.request_timeout_seconds, REQUEST_TIMEOUT_SECONDS
        self._dsn = settings.dsn
        self._is_down = False
        # The server cancels a statement one second before the deadline of its request, so that the
        # connection stays usable. The other timeouts are those of the longest deadline that a route
        # may declare; such a route sets its own `statement_timeout`.
        self._options: dict[str, Any] = {
            "timeout": min(CONNECT_SECONDS, limit),
            "command_timeout": longest + 1,
            "server_settings": {
                "application_name": __name__.partition(".")[0],
                "statement_timeout": milliseconds(max(limit - 1, limit / 2)),
                "idle_in_transaction_session_timeout": milliseconds(longest),
            },
        }
        self.engine = create_async_engine(
            "postgresql+asyncpg://",
            async_creator=self._connect,
            poolclass=Pool,
            pool_size=settings.pool_size,
            max_overflow=0,
            pool_timeout=min(POOL_SECONDS, limit / 2),
            pool_recycle=RECYCLE_SECONDS,
            pool_use_lifo=True,
            hide_parameters=True,  # errors are logged with their statement
        )
        event.listen(self.engine.sync_engine, "checkout", refuse_closed)
        # Objects stay readable after the commit, while the response is built from them. A session
        # that is used after its end raises an error: it would open a transaction that never ends.
        self.sessions = async_sessionmaker(
            self.engine, expire_on_commit=False, close_resets_only=False
        )

    @property
    def pool(self) -> Pool:
        """The pool."""
        pool = self.engine.pool
        assert isinstance(pool, Pool)  # noqa: S101
        return pool

    @asynccontextmanager
    async def session(self) -> AsyncIterator[AsyncSession]:
        """Open a session: committed at the end of the block, rolled back on an exception.

        Raises `DatabaseUnavailable` (503) if there is no connection, and `HTTPException` (504) if
        the server cancels a statement at its timeout.
        """
        try:
            async with self.sessions() as session:
                yield session
                if session.in_transaction():  # the block may have closed the session
                    await session.commit()
        except DBAPIError as error:
            if response := error_response(error):
                raise response from error
            raise

    async def ping(self) -> None:
        """Query the database. Raises the error if that fails."""
        async with self.session() as session:
            await session.execute(text("SELECT 1"))

    async def close(self) -> None:
        """Close all connections, within `CLOSE_SECONDS`."""
        with move_on_after(CLOSE_SECONDS, shield=True):
            await self.engine.dispose()

    async def _connect(self) -> Any:
        try:
            connection = await asyncpg.connect(self._dsn, **self._options)
        except (OSError, asyncpg.PostgresError, asyncpg.InterfaceError) as error:
            if not self._is_down:  # log once, not for each request
                reason = str(error) or f"no response within {self._options['timeout']:g} s"
                logger.error("No connection to the database: %s: %s", type(error).__name__, reason)
            self._is_down = True
            raise DatabaseUnavailable from error
        if self._is_down:
            logger.warning("Connected to the database again")
        self._is_down = False
        return connection


def milliseconds(seconds: float) -> str:
    """Return a timeout in milliseconds for PostgreSQL; at least 1, because 0 would disable it."""
    return str(max(1, int(seconds * 1000)))


def refuse_closed(connection: Any, *_: object) -> None:
    """Make the pool replace a connection that the server has closed; needs no round trip."""
    if connection.driver_connection.is_closed():
        raise DisconnectionError


def sqlstate(error: BaseException | None) -> str:
    """Return the SQLSTATE of an error, or an empty string if the server did not send it."""
    return getattr(error, "sqlstate", None) or ""


def error_response(error: DBAPIError) -> HTTPException | None:
    """Return the exception to raise for an error that the statement did not cause, else None."""
    code = sqlstate(error.orig)
    if code == QUERY_CANCELED:
        logger.error("A statement was cancelled at its timeout: %s", error.statement)
        return HTTPException(504)
    if error.connection_invalidated or code.startswith(UNAVAILABLE):
        logger.warning("Connection to the database lost: %s", error.orig)
        return DatabaseUnavailable()
    return None
