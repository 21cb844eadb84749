"""The session of a request."""

from collections.abc import AsyncIterator
from typing import TYPE_CHECKING, Annotated

from fastapi import Depends
from sqlalchemy.ext.asyncio import AsyncSession
from starlette.requests import HTTPConnection

from ..asgi.deadlines import Deadline
from ..asgi.wrap import ROUTED_KEY

if TYPE_CHECKING:
    from .engine import Database


async def session(connection: HTTPConnection) -> AsyncIterator[AsyncSession]:
    """Yield a session: committed before the response is sent, rolled back on errors and deadlines.

    It acquires a connection at its first statement. Depend on it through `DatabaseSession`: without
    `scope="function"`, FastAPI would commit after the response has been sent.
    """
    database: Database = connection.state.database
    async with database.session() as opened:
        yield opened
        deadline = connection.scope.get(ROUTED_KEY)
        if isinstance(deadline, Deadline):  # a WebSocket has none
            deadline.end()  # a 504 would deny what the commit has stored


DatabaseSession = Annotated[AsyncSession, Depends(session, scope="function")]
