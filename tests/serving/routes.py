"""Routes for the tests of this folder, with dependencies and middleware of a real service."""

ROUTES = '''
import asyncio
import logging
import os
import random
import sqlite3
import tempfile
import threading
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from typing import Annotated

import httpx2
from fastapi import BackgroundTasks, Depends, FastAPI, HTTPException, Request, Response, UploadFile
from fastapi import WebSocket
from fastapi.responses import JSONResponse, StreamingResponse
from starlette.middleware.base import BaseHTTPMiddleware
from starlette.middleware.cors import CORSMiddleware

from {package} import serving
from {package}.app import create_app

app = create_app()
DATABASE = "{database}"
log = logging.getLogger("shop")
go = asyncio.Event()


class Inner(BaseHTTPMiddleware):
    """Runs for /wrapped/... only."""

    async def dispatch(self, request, call_next):
        return await call_next(request)


def connect() -> sqlite3.Connection:
    database = sqlite3.connect(DATABASE, check_same_thread=False, isolation_level=None)
    database.execute("create table if not exists entries (name text)")
    return database


def transaction() -> Iterator[sqlite3.Connection]:
    database = connect()
    database.execute("begin")
    try:
        yield database
    finally:
        if database.in_transaction:
            database.execute("rollback")
        database.close()


Transaction = Annotated[sqlite3.Connection, Depends(transaction)]


@app.post("/transfer")
def transfer(database: Transaction, seconds: float) -> str:
    database.execute("insert into entries values ('debit')")
    time.sleep(seconds)
    database.execute("insert into entries values ('credit')")
    database.execute("commit")
    return "transferred"


@app.post("/transfer-in-coroutine")
async def transfer_in_coroutine(database: Transaction, seconds: float) -> str:
    database.execute("insert into entries values ('debit')")
    await asyncio.sleep(seconds)
    database.execute("insert into entries values ('credit')")
    database.execute("commit")
    return "transferred"


@app.get("/entries")
async def entries() -> list[str]:
    return [name for (name,) in connect().execute("select name from entries")]


@app.get("/threads")
async def threads() -> int:
    return sum(thread.name.startswith("AnyIO worker") for thread in threading.enumerate())


@app.get("/block")
def block(seconds: float) -> str:
    time.sleep(seconds)
    return "done"


@app.get("/hang")
async def hang_here() -> None:
    await asyncio.Event().wait()


@app.get("/hang-and-fail")
async def hang_and_fail() -> None:
    try:
        await asyncio.Event().wait()
    finally:
        raise LookupError("while cleaning up")


@app.get("/long", dependencies=[serving.deadline(5)])
async def long() -> str:
    await asyncio.sleep(1.5)
    return "done"


@app.post("/long-upload", dependencies=[serving.deadline(5)])
async def long_upload(file: UploadFile) -> int:
    return len(await file.read())


@app.get("/late-first-chunk")
async def late_first_chunk() -> StreamingResponse:
    async def chunks() -> AsyncIterator[str]:
        await go.wait()
        yield "done"

    go.clear()
    return StreamingResponse(chunks(), media_type="text/plain")


@app.get("/go")
async def let_go() -> None:
    go.set()


# Not per request, because its TLS context takes long to load.
to_myself = httpx2.AsyncClient(transport=httpx2.ASGITransport(app), base_url="http://inner")


@app.get("/call-myself")
async def call_myself() -> str:
    answer = await to_myself.get("/nowhere")
    log.warning("after the inner request")
    await asyncio.sleep(30)
    return str(answer.status_code)


@app.get("/raise")
async def fail() -> None:
    raise LookupError("at once")


@app.get("/exit")
async def leave() -> None:
    raise SystemExit(2)


@app.get("/hang-and-fail-in-a-group")
async def hang_and_fail_in_a_group() -> None:
    try:
        await asyncio.Event().wait()
    except asyncio.CancelledError as error:
        raise BaseExceptionGroup("of a task group", [error, LookupError("while cleaning up")])


@app.get("/background")
async def background(tasks: BackgroundTasks) -> str:
    def fail() -> None:
        raise LookupError("in the background")

    tasks.add_task(fail)
    return "accepted"


@app.post("/echo", dependencies=[serving.deadline(30)])
async def echo(request: Request) -> int:
    return len(await request.body())


@app.post("/large", max_body_size=8_000_000, dependencies=[serving.deadline(30)])
async def large(request: Request) -> int:
    return len(await request.body())


@app.post("/upload")
async def upload(file: UploadFile) -> int:
    return file.size or 0


@app.get("/answers/{{status}}")
async def answers(status: int) -> None:
    raise HTTPException(status)


@app.get("/temporary-directory")
async def temporary_directory(path: str) -> None:
    tempfile.tempdir = path


@app.get("/seed")
async def seed() -> None:
    random.seed(42)


@app.websocket("/echo/{{room}}")
async def chat(socket: WebSocket, room: str) -> None:
    await socket.accept()
    async for text in socket.iter_text():
        if text == "bye":
            await socket.close(4000)
            return
        await socket.send_text(text)


@app.websocket("/fail-before-accept")
async def fail_before_accept(socket: WebSocket) -> None:
    raise LookupError("before it was accepted")


@app.websocket("/never-accept")
async def never_accept(socket: WebSocket) -> None:
    pass


def own(_: Request, error: Exception) -> Response:
    status = getattr(error, "status_code", 500)
    return Response(f"own {{status}}", status)


if os.environ.get("OWN_HANDLERS"):
    for handled in (400, 413, 503, 504, Exception):
        app.add_exception_handler(handled, own)


tenants = FastAPI()


@tenants.get("/orders/{{number}}")
async def order(tenant: str, number: int) -> str:
    return f"{{tenant}} {{number}}"


app.mount("/t/{{tenant}}", tenants)

framework = FastAPI(title="with the error bodies of FastAPI")
serving.install(framework, serving.load(serving.ServingSettings), problems=False)
framework.add_api_route("/upload", upload, methods=["POST"])
app.mount("/framework", framework)

with_middleware = FastAPI(title="the same below a BaseHTTPMiddleware")
with_middleware.add_middleware(Inner)
with_middleware.router.routes.extend(app.router.routes[-35:])
app.mount("/wrapped", with_middleware)
'''
