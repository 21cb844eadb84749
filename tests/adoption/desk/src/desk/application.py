from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import TypedDict

from fastapi import FastAPI
from starlette.exceptions import HTTPException

from . import __version__, errors
from .middleware import TimingMiddleware
from .routes import live, tickets
from .settings import Settings


class State(TypedDict):
    tickets: dict[int, str]
    listeners: set[object]


def create_app(settings: Settings | None = None) -> FastAPI:
    settings = settings or Settings()

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[State]:
        app.state.open = True
        yield {"tickets": {}, "listeners": set()}
        app.state.open = False

    api = FastAPI(
        title="Desk",
        version=__version__,
        lifespan=lifespan,
        exception_handlers={HTTPException: errors.http_error},
    )
    api.state.settings = settings
    api.add_middleware(TimingMiddleware)
    errors.register(api)
    api.include_router(tickets.router, prefix="/v1")
    api.include_router(live.router)
    return api
