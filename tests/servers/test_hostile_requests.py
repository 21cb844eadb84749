"""Hostile bytes get a response and a log line, and the server keeps serving."""

from collections.abc import Iterator
from contextlib import ExitStack

import pytest

from ..harness.project import Project
from ..harness.server import Server, serve
from ..harness.wire import HOST, Wire, log_of

ROUTES = """
import asyncio
from collections.abc import AsyncIterator
from typing import Literal

from fastapi import Request, Response
from fastapi.responses import StreamingResponse
from pydantic import BaseModel

from {package}.app import create_app

app = create_app()


class Order(BaseModel, extra="forbid"):
    number: int
    state: Literal["placed", "paid"] = "placed"


@app.put("/orders/{{number}}")
async def put(number: int, order: Order) -> Order:
    return order


@app.post("/counts")
async def counts(counts: dict[str, int]) -> int:
    return len(counts)


@app.post("/echo")
async def echo(request: Request) -> Response:
    return Response(await request.body(), media_type="application/octet-stream")


@app.post("/stream")
async def stream() -> StreamingResponse:
    async def lines() -> AsyncIterator[str]:
        while True:
            yield "a line"
            await asyncio.sleep(0.01)

    return StreamingResponse(lines())
"""

TARGET = b"GET /large-response?size_kb=1 HTTP/1.1\r\n"
GET = TARGET + HOST
PROXIED = GET + b"X-Forwarded-For: 192.0.2.1\r\n"
POST = b"POST /echo HTTP/1.1\r\n" + HOST
CHUNKED = POST + b"Transfer-Encoding: chunked\r\n"
END = b"\r\n"
HELLO = b"5\r\nhello\r\n"
MANY = b"".join(b"X-%d: y\r\n" % number for number in range(10_000))
CHUNK = b"10000\r\n" + b"x" * 0x10000 + END
TOO_MUCH = [CHUNK] * 17  # one chunk more than 1 MiB


def of_length(length: bytes) -> bytes:
    return POST + b"Content-Length: " + length + END + END + b"hello"


def to(target: bytes, method: bytes = b"GET") -> bytes:
    return method + b" " + target + b" HTTP/1.1\r\n" + HOST + END


def json(body: bytes, target: bytes = b"/orders/1", method: bytes = b"PUT") -> bytes:
    head = to(target, method).removesuffix(END) + b"Content-Type: application/json\r\n"
    return head + b"Content-Length: %d\r\n\r\n" % len(body) + body


# Not HTTP: 400, then the connection is closed.
UNREADABLE = {
    "a NUL in the path": to(b"/a\0b"),
    "bytes above ASCII in the path": to(b"/caf\xc3\xa9"),
    "bytes above ASCII in the query": to(b"/large-response?size_kb=1&\xff=\xfe"),
    "a path of 200 KB": to(b"/" + b"y" * 200_000),
    "no path": to(b"?query"),
    "CONNECT": to(b"localhost:443", b"CONNECT"),
    "an unknown method": to(b"/", b"BREW"),
    "a method in lower case": to(b"/", b"get"),
    "a carriage return in a header": GET + b"X-A: a\rX-B: b\r\n\r\n",
    "a line feed in a header": GET + b"X-A: a\nX-B: b\r\n\r\n",
    "a NUL in a header": GET + b"X-A: a\0b\r\n\r\n",
    "a folded header": GET + b"X-A: a\r\n b\r\n\r\n",
    "a NUL in the request's id": PROXIED + b"X-Request-ID: 12345678\x0090\r\n\r\n",
    "a line feed in the request's id": PROXIED + b"X-Request-ID: 12345678\n90\r\n\r\n",
    "line feeds alone": GET.replace(b"\r", b"") + b"\n",
    "a space before the colon": CHUNKED.replace(b"-Encoding:", b"-Encoding :") + END + HELLO,
    "a length below zero": of_length(b"-1"),
    "a length with a sign": of_length(b"+5"),
    "a length with an underscore": of_length(b"1_0"),
    "a length in hexadecimal": of_length(b"0x5"),
    "a length of 5000 digits": of_length(b"9" * 5000),
    "a list of lengths": of_length(b"5, 5"),
    "no length": of_length(b""),
    "two lengths": of_length(b"5\r\nContent-Length: 6"),
    "twice the same length": of_length(b"5\r\nContent-Length: 5"),
    "a length and chunks": CHUNKED + b"Content-Length: 5\r\n\r\n0\r\n\r\n" + to(b"/smuggled"),
    "chunks and a length": of_length(b"5\r\nTransfer-Encoding: chunked"),
    "chunks twice": CHUNKED + b"Transfer-Encoding: identity\r\n\r\n" + HELLO + b"0\r\n\r\n",
    "chunks of another name": CHUNKED.replace(b"chunked", b"xchunked") + END + HELLO,
    "a chunk without a size": CHUNKED + END + b"hello\r\n",
    "a chunk of a huge size": CHUNKED + END + b"F" * 17 + b"\r\nhello",
    "HTTP/2": b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
    "TLS": b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03",
}

# Valid HTTP, with the status of the response.
READABLE = {
    "line breaks in the path": (to(b"/a%0d%0aX-Evil:%201%00"), 404),
    "a path to be redirected with them": (to(b"/large-response/?%0d%0aX-Evil:%201"), 307),
    "line breaks in the query": (to(b"/large-response?size_kb=%0d%0aX-Evil:%201"), 422),
    "bad UTF-8 in the path": (to(b"/%ff%c3("), 404),
    "bad UTF-8 in the query": (to(b"/large-response?size_kb=%ff&%fe"), 422),
    "bad UTF-8 in a header": (GET + b"X-A: \xff\xfe\r\nAccept-Encoding: \xff\r\n\r\n", 200),
    "a client that is no address": (GET + b'X-Forwarded-For: \x85"\\{\xff\r\n\r\n', 200),
    "an id that is none": (PROXIED + b'X-Request-ID: "},{"level":"\r\n\r\n', 200),
    "a trace that is none": (GET + b"traceparent: 00-" + b"\xff" * 32 + b"-0-01\r\n\r\n", 200),
    "a host that is none": (to(b"/large-response/").replace(HOST, b"Host: [\xff\r\n"), 307),
    "no host": (TARGET + END, 200),
    "10,000 headers": (GET + MANY + END, 200),
    "a header of a megabyte": (GET + b"X-A: " + b"y" * 10**6 + END + END, 200),
    "a huge length": (of_length(b"%d" % (2**64 - 1)), 413),
    "an absolute target": (to(b"http://evil.example/large-response?size_kb=1"), 200),
    "an asterisk": (to(b"*", b"OPTIONS"), 404),
    "an unsupported method": (to(b"/large-response", b"TRACE"), 405),
    "HTTP/1.0": (GET.replace(b"HTTP/1.1", b"HTTP/1.0") + END, 200),
    "no version": (b"GET /large-response?size_kb=1\r\n\r\n", 200),
    "chunks with extensions and trailers": (
        CHUNKED + END + b"5;a=b\r\nhello\r\n0\r\nX-A: b\r\n\r\n",
        200,
    ),
    "an unknown expectation": (POST + b"Expect: more\r\nContent-Length: 0\r\n\r\n", 200),
    "an expectation with too much behind it": (
        POST + b"Expect: 100-continue\r\nContent-Length: 2000000\r\n\r\n",
        413,
    ),
    "bad UTF-8 in JSON": (json(b'{"number": "\xff"}'), 400),
    "half a character in a value": (json(rb'{"number": 1, "state": "\ud800"}'), 422),
    "half a character in a name": (json(rb'{"number": 1, "\ud800": 2}'), 422),
    "half a character in a key": (json(rb'{"\ud800": "x"}', b"/counts", b"POST"), 422),
    "not a number": (json(b'{"number": NaN}'), 422),
    "a number of 5000 digits": (json(b'{"number": ' + b"9" * 5000 + b"}"), 400),
    "100,000 lists in each other": (json(b"[" * 100_000 + b"]" * 100_000), 400),
    "no JSON": (json(b"\0"), 422),
}


@pytest.fixture(scope="module")
def server(project: Project, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """The service with more routes, in one process, with short timeouts."""
    directory = tmp_path_factory.mktemp("hostile")
    (directory / "routes.py").write_text(ROUTES.format(package=project.package))
    env = {
        "PYTHONPATH": str(directory),
        "WEB_CONCURRENCY": "1",
        "REQUEST_TIMEOUT_SECONDS": "5",
    }
    with serve(project, directory / "log", "routes:app", env) as server:
        yield server


@pytest.mark.parametrize("name", UNREADABLE)
def test_invalid_http_is_refused_with_one_log_line(server: Server, name: str) -> None:
    with log_of(server) as log, Wire(server) as wire:
        wire.send(UNREADABLE[name])
        assert wire.response().status == 400
        assert wire.closed()

    # If only the body is invalid, the request has started.
    assert [event["event"] for event in log if event["event"] != "request"] == [
        "Invalid HTTP request received."
    ]
    assert len(log) <= 2
    assert all(event.get("status", 400) < 500 for event in log), log


@pytest.mark.parametrize("name", READABLE)
def test_valid_http_gets_its_status_and_one_log_line(server: Server, name: str) -> None:
    request, status = READABLE[name]
    with log_of(server) as log, Wire(server) as wire:
        wire.send(request)
        response = wire.response(request.split()[0].decode())

    assert response.status == status, response.body
    assert "x-evil" not in response.headers
    [line] = log
    assert (line["event"], line["status"]) == ("request", status)
    assert response.headers["x-request-id"] == line["request_id"]
    assert line["request_id"].isalnum()


def test_request_id_is_accepted_unchanged_or_replaced(server: Server) -> None:
    """Only from a trusted proxy, here any client on this machine that sends X-Forwarded-For."""
    with log_of(server) as log, Wire(server) as wire:
        for request in (PROXIED + b"X-Request-ID: one-of-ours\r\n\r\n", PROXIED + END):
            wire.send(request)
            wire.response()
        wire.send(GET + b"X-Request-ID: one-of-theirs\r\n\r\n")
        wire.response()

    assert len(log) == 3
    assert [line["request_id"] == "one-of-ours" for line in log] == [True, False, False]
    assert "one-of-theirs" not in str(log)


@pytest.mark.parametrize("path", ["/echo", "/orders/1"])
def test_chunked_body_above_the_limit_is_refused(server: Server, path: str) -> None:
    method = "POST" if path == "/echo" else "PUT"
    head = to(path.encode(), method.encode()).removesuffix(END)
    with log_of(server) as log, Wire(server) as wire:
        wire.send(head + b"Transfer-Encoding: chunked\r\n\r\n", *TOO_MUCH)
        response = wire.response()

    assert response.status == 413
    assert [line["status"] for line in log] == [413]


def test_too_large_body_aborts_a_started_response(server: Server) -> None:
    with log_of(server) as log, Wire(server) as wire:
        wire.send(CHUNKED.replace(b"/echo", b"/stream") + END)
        assert wire.head()[0] == 200
        wire.send(*TOO_MUCH)
        with pytest.raises((ValueError, EOFError, ConnectionError)):
            wire.response()
        server.wait_for_log("/stream")

    assert [event["status"] for event in log if event["event"] == "request"] == [200]


def test_invalid_chunk_in_a_body_is_a_client_error(server: Server) -> None:
    with log_of(server) as log, Wire(server) as wire:
        wire.send(CHUNKED + b"Expect: 100-continue\r\n\r\n")
        assert wire.response().status == 100  # the application reads the body
        wire.send(HELLO + b"no size\r\n")
        assert wire.response().status == 400
        assert wire.closed()

    assert not any("exception" in event for event in log), log
    assert [event["status"] for event in log if event["event"] == "request"] == [499]


def test_pipelined_requests_get_responses_in_order(server: Server) -> None:
    with log_of(server) as log, Wire(server) as wire:
        hello = POST + b"Content-Length: 5\r\n\r\nhello"
        wire.send((hello + to(b"/nowhere") + GET + END) * 20)
        statuses = [wire.response().status for _ in range(60)]

    assert statuses == [200, 404, 200] * 20
    assert [line["status"] for line in log] == statuses


def test_expect_continue_gets_100_when_the_body_is_read(server: Server) -> None:
    with Wire(server) as wire:
        wire.send(POST + b"Expect: 100-continue\r\nContent-Length: 5\r\n\r\n")
        assert wire.response().status == 100
        wire.send(b"hello")
        assert wire.response().body == b"hello"


@pytest.mark.parametrize(
    ("path", "status"),
    [("/health/live", 200), ("/large-response", 405), ("/nowhere", 404), ("/orders/1", 405)],
)
def test_head_never_has_a_body(server: Server, path: str, status: int) -> None:
    with log_of(server) as log, Wire(server) as wire:
        wire.send(to(path.encode(), b"HEAD") + GET + END)
        assert wire.response("HEAD").status == status
        assert wire.response().status == 200, "what follows is the next answer"

    answered = [200] if path == "/health/live" else [status, 200]  # health is a debug line
    assert [line["status"] for line in log] == answered


def test_slow_clients_do_not_delay_others(server: Server) -> None:
    """Slow headers are not tested: the proxy has a timeout for them."""
    body = POST + b"Content-Length: 10\r\n\r\nh"
    with log_of(server) as log, ExitStack() as stack:
        in_headers = [stack.enter_context(Wire(server)) for _ in range(100)]
        in_bodies = [stack.enter_context(Wire(server)) for _ in range(100)]
        for wire in in_headers:
            wire.send(GET + b"X-A: ")
        for wire in in_bodies:
            wire.send(body)
        assert server.get("/health/ready").status == 200
        assert server.get("/large-response?size_kb=8").status == 200
        for wire in in_headers + in_bodies:
            wire.send(b"e")

        assert {wire.response().status for wire in in_bodies} == {504}

    statuses = sorted(line["status"] for line in log if line["event"] == "request")
    assert statuses == [200] + [504] * 100
