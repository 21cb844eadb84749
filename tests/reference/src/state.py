"""What the lifespan opens, for each process, and the dependency that hands it to routes."""

from typing import Annotated, TypedDict, cast

import httpx2
from fastapi import Depends
from sqlalchemy import Engine
from sqlalchemy.ext.asyncio import AsyncEngine
from starlette.requests import HTTPConnection

from .room import Room
from .settings import Settings


class State(TypedDict):
    """Lifespan state."""

    settings: Settings
    engine: Engine
    async_engine: AsyncEngine
    http: httpx2.AsyncClient
    room: Room


async def get_state(connection: HTTPConnection) -> State:
    """Return the lifespan state of a request or a WebSocket."""
    return cast("State", connection.scope["state"])


AppState = Annotated[State, Depends(get_state)]
