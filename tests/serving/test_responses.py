"""Every response is complete: CORS, ID, security headers, Cache-Control, problem or own handler."""

import http.client
import json
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from ..harness.server import Answer, Server
from ..harness.wire import HOST, Wire, log_of
from .conftest import ServeRoutes

ORIGIN = "https://app.example.com"
PREFLIGHT = {"Origin": ORIGIN, "Access-Control-Request-Method": "PUT"}
LARGE = b"x" * 2_000_000


@pytest.fixture(scope="module")
def strict(serve_routes: ServeRoutes) -> Iterator[Server]:
    """The service with CORS, known hosts and one request at once."""
    settings = {"CORS_ORIGINS": ORIGIN, "ALLOWED_HOSTS": "127.0.0.1", "MAX_CONCURRENCY": "1"}
    with serve_routes(**settings) as server:
        yield server


def test_every_error_has_cors_id_and_security_headers(strict: Server) -> None:
    asked: list[tuple[int, Callable[[], Answer]]] = [
        (500, lambda: strict.get("/raise", Origin=ORIGIN)),
        (500, lambda: strict.get("/exit", Origin=ORIGIN)),
        (504, lambda: strict.get("/hang", Origin=ORIGIN)),
        (413, lambda: strict.ask("POST", "/echo", LARGE, Origin=ORIGIN)),
        (400, lambda: strict.get("/nowhere", Origin=ORIGIN, Host="other.example")),
        (404, lambda: strict.get("/nowhere", Origin=ORIGIN)),
        (418, lambda: strict.get("/answers/418", Origin=ORIGIN)),
    ]
    for status, ask in asked:
        answer = ask()
        assert answer.status == status
        assert answer.headers["access-control-allow-origin"] == ORIGIN, status
        assert answer.headers["cache-control"] == "no-store"
        assert answer.headers["x-content-type-options"] == "nosniff"
        assert answer.headers["content-type"] == "application/problem+json"
        assert json.loads(answer.body)["request_id"] == answer.headers["x-request-id"]


def test_full_process_answers_503_with_cors_and_still_answers_a_preflight(strict: Server) -> None:
    with Wire(strict) as held:
        held.send(b"GET /late-first-chunk HTTP/1.1\r\n", HOST.replace(b"localhost", b"127.0.0.1"))
        held.send(b"\r\n")
        assert held.head()[0] == 200
        refused = strict.get("/nowhere", Origin=ORIGIN)
        preflight = strict.ask("OPTIONS", "/nowhere", **PREFLIGHT)
        evading = strict.get("/nowhere", **PREFLIGHT)

    assert (refused.status, refused.headers["retry-after"]) == (503, "1")
    assert refused.headers["access-control-allow-origin"] == ORIGIN
    assert (preflight.status, evading.status) == (200, 503)
    assert preflight.headers["access-control-allow-origin"] == ORIGIN


def test_plain_client_that_sends_too_much_reads_the_413(server: Server) -> None:
    for _ in range(20):
        connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=30)
        connection.request("POST", "/echo", b"x" * 20_000_000)
        assert connection.getresponse().status == 413
        connection.close()


@pytest.mark.parametrize(
    ("path", "status"), [("/large", 200), ("/echo", 413), ("/wrapped/echo", 413)]
)
@pytest.mark.parametrize("chunked", [True, False])
def test_body_limit_is_the_route_s_own_or_the_default(
    server: Server, path: str, status: int, chunked: bool
) -> None:
    body = iter([LARGE[:500_000]] * 4) if chunked else LARGE

    assert server.ask("POST", path, body).status == status


@pytest.mark.parametrize("path", ["/raise", "/background", "/answers/500"])
def test_connection_stays_or_is_announced_to_close_after_an_error(
    server: Server, path: str
) -> None:
    with Wire(server) as wire:
        for _ in range(20):
            wire.send(f"GET {path} HTTP/1.1\r\n".encode(), HOST, b"\r\n")
            first = wire.answer()
            assert first.headers.get("connection") != "close"
            wire.send(b"POST /echo HTTP/1.1\r\n", HOST, b"Content-Length: 5\r\n\r\nhello")
            assert wire.answer().body == b"5"


def test_failed_background_task_is_logged_once(server: Server) -> None:
    answer = server.get("/background")
    assert answer.status == 200
    request_id = answer.headers["x-request-id"]
    while len(lines := [e for e in server.events if e.get("request_id") == request_id]) < 2:
        pass  # the task runs once the response has left

    assert [line["event"] for line in lines] == ["request", "Exception in ASGI application"]
    assert "in the background" in lines[1]["exception"]


def test_upload_into_a_full_disk_is_a_500_with_its_cause(
    serve_routes: ServeRoutes, tmp_path: Path
) -> None:
    part = b'--B\r\nContent-Disposition: form-data; name="file"; filename="f"\r\n\r\n'
    body = part + b"x" * 3_000_000 + b"\r\n--B--\r\n"
    missing = str(tmp_path / "gone")
    with serve_routes(MAX_BODY_BYTES="5000000") as server, log_of(server) as log:
        server.get(f"/temporary-directory?path={missing}")
        headers = {"Content-Type": "multipart/form-data; boundary=B"}
        paths = ("/upload", "/framework/upload")
        answers = [server.ask("POST", path, body, **headers) for path in paths]

    assert [answer.status for answer in answers] == [500, 500]
    causes = [line["exception"] for line in log if "exception" in line]
    assert ["FileNotFoundError" in cause for cause in causes] == [True, True]


def test_head_of_health_routes(server: Server) -> None:
    for path in ("/health/live", "/health/ready"):
        with Wire(server) as wire:
            wire.send(f"HEAD {path} HTTP/1.1\r\n".encode(), HOST, b"\r\n")
            assert wire.answer("HEAD").status == 200
            wire.send(b"GET /go HTTP/1.1\r\n", HOST, b"\r\n")
            assert wire.answer().status == 200, "the response to HEAD had a body"


def test_headers_of_a_stream_are_sent_before_its_first_chunk(server: Server) -> None:
    for accepted in (b"identity", b"zstd"):
        with Wire(server) as wire:
            wire.send(b"GET /late-first-chunk HTTP/1.1\r\n", HOST, b"Accept-Encoding: ", accepted)
            wire.send(b"\r\n\r\n")
            assert wire.head()[0] == 200
            server.get("/go")
            assert wire.chunk()


@pytest.mark.parametrize(("path", "status"), [("/late-first-chunk", 499), ("/hang", 504)])
def test_disconnected_client_is_499_and_never_a_server_error(
    server: Server, path: str, status: int
) -> None:
    with log_of(server) as log:
        wire = Wire(server)
        wire.send(f"GET {path} HTTP/1.1\r\n".encode(), HOST, b"\r\n")
        if status == 499:
            wire.head()
        wire.close()
        server.wait_for_log(path)

    assert [line["status"] for line in log if line["event"] == "request"] == [status]


def once_there_is_room(ask: Callable[[], Answer]) -> Answer:
    """Ask until the request before counts no more, a moment after its response."""
    answers = (ask() for _ in range(1000))
    return next(answer for answer in answers if answer.status != 503)


def test_handlers_of_the_service_answer_refusals_of_the_layer(serve_routes: ServeRoutes) -> None:
    settings = {"ALLOWED_HOSTS": "127.0.0.1", "MAX_CONCURRENCY": "1", "OWN_HANDLERS": "yes"}
    with serve_routes(**settings) as server:
        with Wire(server) as held:
            held.send(b"GET /late-first-chunk HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n")
            held.head()
            full = server.get("/nowhere")
        server.wait_for_log("/late-first-chunk")
        answers = [
            full,
            once_there_is_room(lambda: server.get("/hang")),
            once_there_is_room(lambda: server.ask("POST", "/echo", LARGE)),
            once_there_is_room(lambda: server.ask("POST", "/echo", iter([LARGE]))),
            once_there_is_room(lambda: server.get("/nowhere", Host="other.example")),
            once_there_is_room(lambda: server.get("/raise")),
        ]

    assert [(answer.status, answer.body) for answer in answers] == [
        (503, b"own 503"),
        (504, b"own 504"),
        (413, b"own 413"),
        (413, b"own 413"),
        (400, b"own 400"),
        (500, b"own 500"),
    ]
    assert all("x-request-id" in answer.headers for answer in answers)


def test_ids_differ_after_the_service_has_seeded_random(server: Server) -> None:
    ids = [server.get("/seed").headers["x-request-id"] for _ in range(3)]

    assert len(set(ids)) == 3


def test_labels_are_bounded_by_what_is_declared(server: Server) -> None:
    with log_of(server) as log, ThreadPoolExecutor(8) as clients:
        list(clients.map(lambda n: server.get(f"/t/tenant-{n}/orders/{n}"), range(50)))
        server.get("/t/x/nowhere")
        server.ask("QUERY", "/nowhere")

    assert {(line["method"], line["route"]) for line in log} == {
        ("GET", "/t/{tenant}/orders/{number}"),
        ("GET", "/t/{tenant}/{path}"),
        ("QUERY", "unmatched"),
    }


@pytest.mark.parametrize("target", ["kubernetes"], indirect=True, scope="session")
def test_health_routes_keep_their_label_below_a_prefix(serve_routes: ServeRoutes) -> None:
    with serve_routes(UVICORN_ROOT_PATH="/api", LOG_LEVEL="debug") as server:
        server.get("/health/live")
        server.wait_for_log("/health/live")

    assert {line["route"] for line in server.requests} <= {"/health/live", "/health/ready"}


@pytest.mark.parametrize("length", [b"-1", b"+5", b"five", b"5, 5", b"0x5"])
def test_invalid_content_length_is_a_client_error(server: Server, length: bytes) -> None:
    with log_of(server) as log, Wire(server) as wire:
        wire.send(b"POST /echo HTTP/1.1\r\n", HOST, b"Content-Length: ", length, b"\r\n\r\nhello")
        assert 400 <= wire.head()[0] < 500

    assert not any("exception" in line for line in log)
