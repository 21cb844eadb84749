"""ASGI messages and disconnects are handled as without the serving layer."""

import json
import signal
import socket
import struct
import uuid
from collections.abc import Iterator
from pathlib import Path

import pytest
from websockets.exceptions import ConnectionClosed, InvalidStatus
from websockets.sync.client import connect

from ..harness.project import Project
from ..harness.server import Server, serve
from ..harness.wire import HOST, Wire, log_of

ROUTES = """
import asyncio
import gc
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from fastapi import BackgroundTasks, HTTPException, Request, Response, WebSocket
from fastapi.responses import StreamingResponse

from {package}.app import create_app

app = create_app()
service_lifespan = app.router.lifespan_context
go = asyncio.Event()
left = []


@asynccontextmanager
async def lifespan(app):
    async with service_lifespan(app) as state:
        yield {{**(state or {{}}), "database": "open"}}


app.router.lifespan_context = lifespan


@app.get("/state")
async def state(request: Request) -> str:
    return request.state.database


@app.post("/body")
async def body(request: Request) -> int:
    return len(await request.body())


@app.get("/until-gone")
async def until_gone(request: Request) -> None:
    while not await request.is_disconnected():
        await asyncio.sleep(0.01)


@app.get("/stream")
async def stream(media_type: str = "text/plain", fail: bool = False) -> StreamingResponse:
    async def chunks() -> AsyncIterator[str]:
        go.clear()
        try:
            yield "first"
            await go.wait()
            if fail:
                raise LookupError("in the middle")
            yield "second"
        finally:
            left.append(media_type)

    return StreamingResponse(chunks(), media_type=media_type)


@app.get("/go")
async def let_go() -> list[str]:
    go.set()
    return left


@app.get("/background")
async def background(tasks: BackgroundTasks) -> None:
    async def fail() -> None:
        await go.wait()
        raise LookupError("behind the answer")

    go.clear()
    tasks.add_task(fail)


@app.get("/refuse")
async def refuse() -> None:
    raise HTTPException(418, "No coffee", headers={{"X-Pot": "tea"}})


@app.get("/raise")
async def fail() -> None:
    raise LookupError("at once")


@app.get("/stubborn")
async def stubborn() -> str:
    try:
        await asyncio.Event().wait()
    except asyncio.CancelledError:
        pass
    return "late"


@app.get("/over")
async def over() -> int:
    gc.collect()
    return sum(isinstance(one, asyncio.Task) and one.done() for one in gc.get_objects())


@app.websocket("/echo")
async def echo(socket: WebSocket) -> None:
    await socket.accept()
    async for text in socket.iter_text():
        await socket.send_text(f"{{text}} {{socket.state.database}}")


@app.websocket("/closed")
async def closed(socket: WebSocket) -> None:
    await socket.close(4000)


HEADERS = [(b"content-type", b"text/css")]
START = {{"type": "http.response.start", "status": 200, "headers": HEADERS}}
MORE = {{"type": "http.response.body", "body": b"more", "more_body": True}}
END = {{"type": "http.response.body"}}
OTHER = {{"type": "http.response.debug", "info": {{}}}}
SENT = {{
    "nothing": [],
    "no-body": [START],
    "no-end": [START, MORE],
    "two-starts": [START, START, END],
    "two-answers": [START, END, START, END],
    "two-ends": [START, END, END],
    "after-the-end": [START, END, MORE],
    "no-start": [MORE, END],
    "something-else": [START, OTHER, END],
    "something-else-first": [OTHER, START, END],
}}


async def raw(scope, receive, send):
    for message in SENT[scope["path"].rpartition("/")[2]]:
        await send(message)


app.mount("/raw", raw)
"""

END = b"\r\n"

# Sends a script of messages through the application, and prints the messages to the server.
RECORD = """
import asyncio
import json

from {package}.app import create_app

HEADERS = [(b"content-type", b"text/css")]
START = {{"type": "http.response.start", "status": 200, "headers": HEADERS}}
BODY = {{"type": "http.response.body", "body": b"body" * 1000}}
SCRIPTS = [
    [{{"type": "http.response.early_hint", "links": [b"</a>"]}}, START, BODY],
    [START, {{"type": "http.response.pathsend", "path": "/etc/hostname"}}],
    [START, {{"type": "http.response.zerocopysend", "file": 3}}],
    [{{**START, "trailers": True}}, BODY, {{"type": "http.response.trailers", "headers": []}}],
    [START, {{"type": "http.response.push", "path": "/", "headers": []}}, BODY],
]
app = create_app()


async def raw(scope, receive, send):
    for message in SCRIPTS[int(scope["path"].rpartition("/")[2])]:
        await send(message)


async def main():
    app.mount("/raw", raw)
    for number in range(len(SCRIPTS)):
        sent = []

        async def send(message):
            sent.append(message)

        scope = {{"type": "http", "method": "GET", "path": f"/raw/{{number}}", "root_path": ""}}
        scope |= {{"query_string": b"", "client": None, "headers": [(b"accept-encoding", b"zstd")]}}
        await app(scope, None, send)
        same = [message for message in sent if message in SCRIPTS[number]]
        print(json.dumps([[m["type"] for m in sent], [m["type"] for m in same]]))


asyncio.run(main())
"""


@pytest.fixture(scope="module")
def application(project: Project, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A directory with a module of the routes above."""
    directory = tmp_path_factory.mktemp("asgi")
    (directory / "routes.py").write_text(ROUTES.format(package=project.package))
    return directory


@pytest.fixture(scope="module")
def env(application: Path) -> dict[str, str]:
    return {
        "PYTHONPATH": str(application),
        "WEB_CONCURRENCY": "1",
        "REQUEST_TIMEOUT_SECONDS": "5",
    }


@pytest.fixture(scope="module")
def server(project: Project, application: Path, env: dict[str, str]) -> Iterator[Server]:
    """The service with those routes, in one process, with short timeouts."""
    with serve(project, application / "log", "routes:app", env) as server:
        yield server


class PendingRequest:
    """A request on a new connection, and its log lines."""

    def __init__(self, server: Server, path: str, *, method: str = "GET", head: str = "") -> None:
        self.server = server
        self.id = uuid.uuid4().hex
        self.wire = Wire(server)
        self.wire.send(b"GET /health/live HTTP/1.1\r\n", HOST, END)
        self.wire.response()  # so that its log lines follow a known request
        own = f"X-Forwarded-For: 192.0.2.1\r\nX-Request-ID: {self.id}\r\n"
        self.wire.send(f"{method} {path} HTTP/1.1\r\n{own}".encode() + HOST + head.encode() + END)

    def disconnect(self, with_reset: bool) -> None:
        """Close the connection, with FIN or RST."""
        if with_reset:
            self.wire.socket.setsockopt(
                socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0)
            )
        self.wire.close()

    @property
    def log(self) -> list[tuple[str, object]]:
        """Wait for the end of the request; return event and status, or error, of each line."""
        self.server.wait_for_log(self.id)
        self.wire.close()
        with log_of(self.server):
            pass  # wait for the remaining lines
        events = [event for event in self.server.events if event.get("request_id") == self.id]
        return sorted(
            (event["event"], event.get("status") or last_line(event.get("exception", "")))
            for event in events
        )


def last_line(trace: str) -> str:
    return trace.strip().rpartition("\n")[2]


def request(status: int) -> tuple[str, object]:
    """Return the expected access log line."""
    return ("request", status)


def raised(error: str) -> tuple[str, object]:
    """Return the expected line of an exception of the application."""
    return ("Exception in ASGI application", error)


def test_lifespan_state_is_available_in_requests(server: Server) -> None:
    assert json.loads(server.get("/state").body) == "open"


fin_or_reset = pytest.mark.parametrize("with_reset", [False, True])


@fin_or_reset
@pytest.mark.parametrize("head", ["Content-Length: 10\r\n", "Transfer-Encoding: chunked\r\n"])
def test_disconnect_while_the_body_is_read_is_logged_as_499(
    server: Server, head: str, with_reset: bool
) -> None:
    pending = PendingRequest(server, "/body", method="POST", head=head + "Expect: 100-continue\r\n")
    assert pending.wire.response().status == 100  # the application reads the body
    pending.wire.send(b"5\r\nhe")
    pending.disconnect(with_reset)

    assert pending.log == [request(499)]


@fin_or_reset
def test_disconnect_before_the_body_is_read_is_logged_as_499(
    server: Server, with_reset: bool
) -> None:
    pending = PendingRequest(server, "/body", method="POST", head="Content-Length: 10\r\n")
    pending.disconnect(with_reset)

    assert pending.log == [request(499)]


@fin_or_reset
def test_disconnect_before_the_response_starts_is_logged_as_499(
    server: Server, with_reset: bool
) -> None:
    pending = PendingRequest(server, "/until-gone")
    pending.disconnect(with_reset)

    assert pending.log == [request(499)]


@fin_or_reset
@pytest.mark.parametrize("accepted", ["identity", "zstd"])
def test_disconnect_during_a_stream_is_logged_as_499(
    server: Server, accepted: str, with_reset: bool
) -> None:
    media_type = f"text/{accepted}-{with_reset}"
    path = f"/stream?media_type={media_type}"
    pending = PendingRequest(server, path, head=f"Accept-Encoding: {accepted}\r\n")
    pending.wire.head()
    assert pending.wire.chunk()
    pending.disconnect(with_reset)

    assert pending.log == [request(499)]
    assert media_type in json.loads(server.get("/go").body), "the stream was closed"


@fin_or_reset
@pytest.mark.parametrize("coding", ["zstd", "br", "gzip"])
def test_disconnect_while_a_thread_compresses(
    server: Server, coding: str, with_reset: bool
) -> None:
    head = f"Accept-Encoding: {coding}\r\n"
    all_pending = [
        PendingRequest(server, "/large-response?size_kb=256", head=head) for _ in range(5)
    ]
    for pending in all_pending:
        pending.disconnect(with_reset)

    assert [pending.log for pending in all_pending] == [[request(200)]] * 5


@pytest.mark.parametrize("media_type", ["text/plain", "text/event-stream", "image/png"])
def test_first_chunk_is_sent_before_the_second_exists(server: Server, media_type: str) -> None:
    pending = PendingRequest(server, f"/stream?media_type={media_type}")
    pending.wire.head()

    assert pending.wire.chunk() == b"first"
    server.get("/go")
    assert pending.wire.chunk() == b"second"
    assert pending.wire.chunk() == b""
    assert pending.log == [request(200)]


def test_failing_stream_closes_the_connection(server: Server) -> None:
    pending = PendingRequest(server, "/stream?fail=true")
    pending.wire.head()
    assert pending.wire.chunk() == b"first"
    server.get("/go")

    assert pending.wire.closed()
    assert pending.log == [raised("LookupError: in the middle"), request(200)]


def test_background_task_error_is_logged_after_the_response(server: Server) -> None:
    pending = PendingRequest(server, "/background")
    assert pending.wire.response().status == 200
    server.get("/go")
    server.wait_for_log("behind the answer")

    assert pending.log == [raised("LookupError: behind the answer"), request(200)]


def test_exception_of_a_handler_is_a_problem(server: Server) -> None:
    refused, failed = PendingRequest(server, "/refuse"), PendingRequest(server, "/raise")
    refusal, failure = refused.wire.response(), failed.wire.response()

    assert (refusal.status, refusal.headers["x-pot"]) == (418, "tea")
    assert json.loads(refusal.body)["detail"] == "No coffee"
    assert refused.log == [request(418)]
    assert failure.status == 500
    assert json.loads(failure.body)["request_id"] == failed.id
    assert failed.log == [raised("LookupError: at once"), request(500)]


@pytest.mark.parametrize(
    ("sent", "status", "said"),
    [
        ("nothing", 500, ("ASGI callable returned without starting response.", "")),
        ("no-body", 200, ("ASGI callable returned without completing response.", "")),
        ("no-end", 200, ("ASGI callable returned without completing response.", "")),
        ("two-starts", 200, raised("")),
        ("two-answers", 200, raised("")),
        ("two-ends", 200, raised("")),
        ("after-the-end", 200, raised("")),
        ("no-start", 500, raised("")),
        ("something-else", 200, raised("")),
        ("something-else-first", 500, raised("")),
    ],
)
def test_asgi_protocol_error_is_logged(
    server: Server, sent: str, status: int, said: tuple[str, str] | None
) -> None:
    pending = PendingRequest(server, f"/raw/{sent}")
    answered, _ = pending.wire.head()

    log = [(event, "" if event.startswith("Exc") else what) for event, what in pending.log]
    assert answered == status
    assert log == sorted(filter(None, [said, request(status)]))


def test_handler_suppressing_cancellation_gets_504_and_leaks_no_task(server: Server) -> None:
    before = json.loads(server.get("/over").body)
    for _ in range(2):
        pending = PendingRequest(server, "/stubborn")
        assert pending.wire.response().status == 504
        assert [what for event, what in pending.log if event == "request"] == [504]

    assert json.loads(server.get("/over").body) <= before


def test_unknown_messages_are_passed_unchanged(project: Project, tmp_path: Path) -> None:
    """No server supports these messages, so the test receives them in its place."""
    (tmp_path / "record.py").write_text(RECORD.format(package=project.package))

    result = project.run(project.program("python"), str(tmp_path / "record.py"))

    start, body = "http.response.start", "http.response.body"
    passed = [json.loads(line) for line in result.stdout.splitlines() if line.startswith("[[")]
    assert passed == [
        [["http.response.early_hint", start, body], ["http.response.early_hint"]],
        [[start, "http.response.pathsend"], ["http.response.pathsend"]],
        [[start, "http.response.zerocopysend"], ["http.response.zerocopysend"]],
        [[start, body, "http.response.trailers"], ["http.response.trailers"]],
        [[start, "http.response.push", body], ["http.response.push"]],
    ]


def test_websockets_behave_as_without_the_layer(server: Server) -> None:
    url = f"ws://127.0.0.1:{server.port}"
    with connect(f"{url}/echo") as chat:
        chat.send("hello")
        assert chat.recv(timeout=60) == "hello open"
        chat.send("x" * 100_000)
        assert chat.recv(timeout=60) == "x" * 100_000 + " open"
    for path in ("/closed", "/nowhere", "/body"):
        with pytest.raises(InvalidStatus, match="403"), connect(url + path):
            pass
    with log_of(server) as log, Wire(server) as wire:
        with connect(f"{url}/echo") as rude:
            rude.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            rude.socket.close()
        wire.send(b"GET /echo HTTP/1.1\r\n", HOST, b"Connection: upgrade\r\nUpgrade: websocket\r\n")
        wire.send(b"Sec-WebSocket-Version: 1\r\n\r\n")
        assert wire.closed() is False

    assert not any("exception" in event for event in log), log


def test_websocket_is_closed_at_shutdown(
    project: Project, tmp_path: Path, env: dict[str, str]
) -> None:
    with serve(project, tmp_path / "log", "routes:app", env) as server:
        with connect(f"ws://127.0.0.1:{server.port}/echo") as chat:
            server.process.send_signal(signal.SIGTERM)
            while server.get("/health/ready").status == 200:
                pass
            chat.send("still here")
            assert chat.recv(timeout=60) == "still here open"
            with pytest.raises(ConnectionClosed) as closed:
                chat.recv(timeout=60)
        server.process.wait(30)

        assert closed.value.rcvd
        assert closed.value.rcvd.code == 1012  # service restart
        assert not any("exception" in event for event in server.events)
