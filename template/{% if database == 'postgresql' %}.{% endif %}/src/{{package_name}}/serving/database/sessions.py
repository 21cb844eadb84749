"""The session of a request."""

from collections.abc import AsyncIterator
from typing import TYPE_CHECKING, Annotated

from fastapi import Depends
from sqlalchemy.ext.asyncio import AsyncSession
from starlette.requests import HTTPConnection

if TYPE_CHECKING:
    from .engine import Database


async def session(connection: HTTPConnection) -> AsyncIterator[AsyncSession]:
    """A session: committed before the response leaves, rolled back on every error and deadline.

    It takes a connection with its first statement. Use it by `DatabaseSession`: without
    `scope="function"` FastAPI would commit after the client has its response.
    """
    database: Database = connection.state.database
    async with database.session() as opened:
        yield opened


DatabaseSession = Annotated[AsyncSession, Depends(session, scope="function")]
