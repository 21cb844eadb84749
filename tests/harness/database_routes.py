"""Routes that tests add to a rendered service with a database."""

ROUTES = '''
import asyncio
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from typing import Annotated

from fastapi import BackgroundTasks, Depends, FastAPI, HTTPException, Request
from fastapi.responses import StreamingResponse
from pydantic import BaseModel
from sqlalchemy import Engine, create_engine, text
from sqlalchemy.orm import Session

from PACKAGE.app import create_app
from PACKAGE.models import Note
from PACKAGE.serving.database import DatabaseSession
from PACKAGE.settings import Settings

app = create_app()


@app.post("/both")
async def both(session: DatabaseSession, wait: float = 0, sleep: float = 0) -> str:
    """A debit and a credit, both or neither."""
    session.add(Note(text="debit"))
    await session.flush()
    await session.execute(text("SELECT pg_sleep(:seconds)"), {"seconds": sleep})
    await asyncio.sleep(wait)
    session.add(Note(text="credit"))
    await session.flush()
    return "both"


@app.post("/fail/{status}")
async def fail(session: DatabaseSession, status: int) -> None:
    session.add(Note(text="failed"))
    await session.flush()
    if status == 500:
        raise RuntimeError("broken")
    raise HTTPException(status)


class Answer(BaseModel):
    number: int


@app.post("/unfit", response_model=Answer)
async def unfit(session: DatabaseSession) -> dict[str, str]:
    session.add(Note(text="unfit"))
    await session.flush()
    return {"number": "none"}


@app.post("/twice")
async def twice(session: DatabaseSession, secret: str) -> None:
    """Violate the primary key."""
    values = "(id, text) OVERRIDING SYSTEM VALUE VALUES (1000000, :secret)"
    statement = text(f"INSERT INTO notes {values}")
    for _ in range(2):
        await session.execute(statement, {"secret": secret})


@app.get("/closed")
async def closed(session: DatabaseSession) -> str:
    """Return the connection before a slow call."""
    await session.execute(text("SELECT 1"))
    await session.close()
    return "closed"


@app.post("/after")
async def after(session: DatabaseSession, tasks: BackgroundTasks) -> None:
    """Use the session after its end."""
    tasks.add_task(session.execute, text("SELECT 1"))


@app.get("/hold")
async def hold(session: DatabaseSession, seconds: float) -> int:
    await session.execute(text("SELECT 1"))
    await asyncio.sleep(seconds)
    return 1


@app.get("/stream")
async def stream(session: DatabaseSession, seconds: float) -> StreamingResponse:
    await session.execute(text("SELECT 1"))

    async def lines() -> AsyncIterator[str]:
        yield "begin\\n"
        await asyncio.sleep(seconds)
        yield "end\\n"

    return StreamingResponse(lines(), media_type="text/plain")


@app.get("/pool")
async def pool(request: Request) -> dict[str, int]:
    pool = request.state.database.pool
    return {"in_use": pool.checkedout(), "waiting": pool.waiting, "open": pool.checkedin()}


mounted = FastAPI()
app.mount("/mounted", mounted)


@mounted.get("/one")
async def one(session: DatabaseSession) -> int:
    return (await session.execute(text("SELECT 1"))).scalar_one()
'''

# The recipe of docs/how-to/database.md for synchronous sessions.
SYNCHRONOUS = """

SYNC_POOL = 2


@asynccontextmanager
async def lifespan(_: FastAPI) -> AsyncIterator[dict[str, Engine]]:
    address = Settings().dsn.replace("postgresql://", "postgresql+psycopg://", 1)
    engine = create_engine(address, pool_size=SYNC_POOL, max_overflow=0)
    yield {"engine": engine}
    engine.dispose()


app.router.lifespan_context = lifespan


def open_session(request: Request) -> Iterator[Session]:
    with Session(request.state.engine) as session:
        yield session


SyncSession = Annotated[Session, Depends(open_session, max_concurrency=SYNC_POOL)]


def current(session: SyncSession) -> int:
    session.execute(text("SELECT 1"))
    return 1


@app.get("/sync")
def sync(session: SyncSession, user: Annotated[int, Depends(current)]) -> int:
    session.execute(text("SELECT pg_sleep(0.02)"))
    return user
"""
