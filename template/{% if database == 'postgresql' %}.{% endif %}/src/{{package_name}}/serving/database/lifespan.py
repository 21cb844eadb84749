"""Lifespan of the database: opened after the fork, closed after the last request."""

import asyncio
import logging
from collections.abc import Awaitable, Callable

from fastapi import FastAPI
from starlette.types import Message, Receive, Scope, Send

from ..readiness import Readiness
from .engine import Database, DatabaseUnavailable
from .metrics import sample
from .schema import Schema
from .settings import DatabaseSettings

logger = logging.getLogger(__name__)

Application = Callable[[Scope, Receive, Send], Awaitable[None]]


def install(app: FastAPI, settings: DatabaseSettings, readiness: Readiness) -> None:
    """Open the database with the lifespan of `app`, as `request.state.database`.

    Call it once, after `serving.install`. Readiness reports the database but does not require it:
    else all instances would become unready at once. A schema that is too old prevents the start.
    """
    app_class = type(app)
    lifespan = DatabaseLifespan(settings)
    readiness.add("database", lifespan.check)

    async def call(app: FastAPI, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            await lifespan.run(app_class.__call__.__get__(app), scope, receive, send)
        else:
            await app_class.__call__(app, scope, receive, send)

    names = {"__call__": call, "__doc__": app_class.__doc__, "__module__": app_class.__module__}
    app.__class__ = type(app_class.__name__, (app_class,), names)


class DatabaseLifespan:
    """Opens the database before the application starts, closes it after the last request."""

    def __init__(self, settings: DatabaseSettings) -> None:
        self.settings = settings
        self.schema = Schema()
        self.database: Database | None = None
        self.is_checked = False

    async def run(self, app: Application, scope: Scope, receive: Receive, send: Send) -> None:
        """Run the lifespan of `app` with a database."""
        database = self.database = Database(self.settings)
        sampling = asyncio.create_task(sample(database))

        async def send_after_closing(message: Message) -> None:
            if message["type"] != "lifespan.startup.complete":  # uvicorn does not wait after it
                await database.close()
            await send(message)

        try:
            if fault := await self.fault_at_start(database):
                await send_after_closing({"type": "lifespan.startup.failed", "message": fault})
                raise RuntimeError(fault)
            scope.setdefault("state", {})["database"] = database
            await app(scope, receive, send_after_closing)
        finally:
            sampling.cancel()
            await database.close()

    async def fault_at_start(self, database: Database) -> str | None:
        """Return a line if the schema is too old. Without a connection, `check` checks it later."""
        self.is_checked = False
        try:
            fault = await self.schema.fault(database)
        except DatabaseUnavailable:
            logger.warning("Starts without a database: readiness reports it")
            return None
        except Exception:  # for example, the server accepts a connection, but does not respond
            logger.exception("The schema is not checked yet: readiness checks it again")
            return None
        self.is_checked = fault is None
        return fault

    async def check(self) -> None:
        """Query the database, and check its schema once. Raises an error if either fails."""
        if self.database is None:
            raise RuntimeError("the lifespan has not started")
        if self.is_checked:
            await self.database.ping()
        elif fault := await self.schema.fault(self.database):
            raise RuntimeError(fault)
        else:
            self.is_checked = True
