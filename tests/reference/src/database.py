"""Engines, and a session for each request."""

from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Annotated

import sqlalchemy
from fastapi import Depends
from sqlalchemy import Engine
from sqlalchemy.ext import asyncio as sqlalchemy_asyncio
from sqlalchemy.ext.asyncio import AsyncEngine, AsyncSession
from sqlalchemy.orm import Session

from .state import AppState

# Connections of a process, for each engine.
POOL = 5
# How long a writer waits for another one.
LOCK_SECONDS = 30


def create_engine(file: Path) -> Engine:
    """Create the engine of `def` routes."""
    return sqlalchemy.create_engine(
        f"sqlite:///{file}",
        pool_size=POOL,
        max_overflow=0,
        connect_args={"timeout": LOCK_SECONDS},
    )


def create_async_engine(file: Path) -> AsyncEngine:
    """Create the engine of `async def` routes."""
    return sqlalchemy_asyncio.create_async_engine(
        f"sqlite+aiosqlite:///{file}",
        pool_size=POOL,
        max_overflow=0,
        connect_args={"timeout": LOCK_SECONDS},
    )


def open_session(state: AppState) -> Iterator[Session]:
    """A session that the route commits; rolled back when the route raises."""
    with Session(state["engine"]) as session:
        try:
            yield session
        except BaseException:
            session.rollback()
            raise


async def open_async_session(state: AppState) -> AsyncIterator[AsyncSession]:
    """A session that is committed after the route and before the response is sent."""
    async with AsyncSession(state["async_engine"]) as session, session.begin():
        yield session


# As many requests as there are connections: more would hold a thread while they wait for a
# connection, and those that hold the connections would wait for a thread.
DatabaseSession = Annotated[Session, Depends(open_session, max_concurrency=POOL)]
AsyncDatabaseSession = Annotated[AsyncSession, Depends(open_async_session, scope="function")]
