"""Opens what a process needs, after the fork, and closes it again."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import httpx2
from fastapi import FastAPI

from .database import create_async_engine, create_engine
from .models import create_tables
from .room import Room
from .settings import Settings
from .state import State


@asynccontextmanager
async def lifespan(_: FastAPI, settings: Settings) -> AsyncIterator[State]:
    """Run for the life of a process."""
    engine = create_engine(settings.database_file)
    async_engine = create_async_engine(settings.database_file)
    try:
        create_tables(engine)
        async with httpx2.AsyncClient(timeout=5) as http:
            yield State(
                settings=settings,
                engine=engine,
                async_engine=async_engine,
                http=http,
                room=Room(),
            )
    finally:
        await async_engine.dispose()
        engine.dispose()
