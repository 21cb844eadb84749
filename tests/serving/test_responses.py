"""Every response is complete: CORS, ID, security headers, Cache-Control, problem or own handler."""

import http.client
import json
import uuid
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from ..harness.server import HttpResponse, Server
from ..harness.wait import wait_until
from ..harness.wire import HOST, Wire, log_of
from .conftest import ServeRoutes

ORIGIN = "https://app.example.com"
PREFLIGHT = {"Origin": ORIGIN, "Access-Control-Request-Method": "PUT"}
LARGE = b"x" * 2_000_000


@pytest.fixture(scope="module")
def strict(serve_routes: ServeRoutes) -> Iterator[Server]:
    """The service with CORS, allowed hosts, and a limit of one concurrent request."""
    settings = {"CORS_ORIGINS": ORIGIN, "ALLOWED_HOSTS": "127.0.0.1", "MAX_CONCURRENCY": "1"}
    with serve_routes(**settings) as server:
        yield server


def test_every_error_has_cors_id_and_security_headers(strict: Server) -> None:
    requested: list[tuple[int, Callable[[], HttpResponse]]] = [
        (500, lambda: strict.get("/raise", Origin=ORIGIN)),
        (500, lambda: strict.get("/exit", Origin=ORIGIN)),
        (504, lambda: strict.get("/hang", Origin=ORIGIN)),
        (413, lambda: strict.request("POST", "/echo", LARGE, Origin=ORIGIN)),
        (400, lambda: strict.get("/nowhere", Origin=ORIGIN, Host="other.example")),
        (404, lambda: strict.get("/nowhere", Origin=ORIGIN)),
        (418, lambda: strict.get("/answers/418", Origin=ORIGIN)),
    ]
    for status, send in requested:
        response = send()
        assert response.status == status
        assert response.headers["access-control-allow-origin"] == ORIGIN, status
        assert response.headers["cache-control"] == "no-store"
        assert response.headers["x-content-type-options"] == "nosniff"
        assert response.headers["content-type"] == "application/problem+json"
        assert json.loads(response.body)["request_id"] == response.headers["x-request-id"]


def test_full_process_returns_503_with_cors_and_serves_preflights(strict: Server) -> None:
    with Wire(strict) as held:
        held.send(b"GET /late-first-chunk HTTP/1.1\r\n", HOST.replace(b"localhost", b"127.0.0.1"))
        held.send(b"\r\n")
        assert held.head()[0] == 200
        refused = strict.get("/nowhere", Origin=ORIGIN)
        preflight = strict.request("OPTIONS", "/nowhere", **PREFLIGHT)
        evading = strict.get("/nowhere", **PREFLIGHT)

    assert (refused.status, refused.headers["retry-after"]) == (503, "1")
    assert refused.headers["access-control-allow-origin"] == ORIGIN
    assert (preflight.status, evading.status) == (200, 503)
    assert preflight.headers["access-control-allow-origin"] == ORIGIN


def test_client_that_sends_the_whole_body_first_reads_the_413(server: Server) -> None:
    for _ in range(20):
        connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=120)
        connection.request("POST", "/echo", b"x" * 20_000_000)
        assert connection.getresponse().status == 413
        connection.close()


@pytest.mark.parametrize(
    ("path", "status"), [("/large", 200), ("/echo", 413), ("/wrapped/echo", 413)]
)
@pytest.mark.parametrize("chunked", [True, False])
def test_body_limit_of_the_route_overrides_the_default(
    server: Server, path: str, status: int, chunked: bool
) -> None:
    body = iter([LARGE[:500_000]] * 4) if chunked else LARGE

    assert server.request("POST", path, body).status == status


@pytest.mark.parametrize("path", ["/raise", "/background", "/answers/500"])
def test_connection_after_an_error_is_reusable_or_announced_to_close(
    server: Server, path: str
) -> None:
    with Wire(server) as wire:
        for _ in range(20):
            wire.send(f"GET {path} HTTP/1.1\r\n".encode(), HOST, b"\r\n")
            first = wire.response()
            assert first.headers.get("connection") != "close"
            wire.send(b"POST /echo HTTP/1.1\r\n", HOST, b"Content-Length: 5\r\n\r\nhello")
            assert wire.response().body == b"5"


def test_failed_background_task_is_logged_once(server: Server) -> None:
    response = server.get("/background")
    assert response.status == 200
    request_id = response.headers["x-request-id"]

    def lines() -> list[dict[str, Any]]:
        return [event for event in server.events if event.get("request_id") == request_id]

    wait_until(lambda: len(lines()) == 2, "logged")  # the task runs after the response
    request, error = lines()
    assert (request["event"], error["event"]) == ("request", "Exception in ASGI application")
    assert "in the background" in error["exception"]


def test_upload_into_a_full_disk_is_a_500_with_its_cause(
    serve_routes: ServeRoutes, tmp_path: Path
) -> None:
    part = b'--B\r\nContent-Disposition: form-data; name="file"; filename="f"\r\n\r\n'
    body = part + b"x" * 3_000_000 + b"\r\n--B--\r\n"
    missing = str(tmp_path / "gone")
    settings = {"MAX_BODY_BYTES": "5000000", "REQUEST_TIMEOUT_SECONDS": "30"}
    with serve_routes(**settings) as server, log_of(server) as log:
        server.get(f"/temporary-directory?path={missing}")
        headers = {"Content-Type": "multipart/form-data; boundary=B"}
        paths = ("/upload", "/framework/upload")
        responses = [server.request("POST", path, body, **headers) for path in paths]

    assert [response.status for response in responses] == [500, 500]
    causes = [line["exception"] for line in log if "exception" in line]
    assert ["FileNotFoundError" in cause for cause in causes] == [True, True]


def test_head_of_health_routes_is_200(server: Server) -> None:
    for path in ("/health/live", "/health/ready"):
        with Wire(server) as wire:
            wire.send(f"HEAD {path} HTTP/1.1\r\n".encode(), HOST, b"\r\n")
            assert wire.response("HEAD").status == 200
            wire.send(b"GET /go HTTP/1.1\r\n", HOST, b"\r\n")
            assert wire.response().status == 200, "the response to HEAD had a body"


def test_headers_of_a_stream_are_sent_before_its_first_chunk(server: Server) -> None:
    for accepted in (b"identity", b"zstd"):
        with Wire(server) as wire:
            wire.send(b"GET /late-first-chunk HTTP/1.1\r\n", HOST, b"Accept-Encoding: ", accepted)
            wire.send(b"\r\n\r\n")
            assert wire.head()[0] == 200
            server.get("/go")
            assert wire.chunk()


@pytest.mark.parametrize(("path", "status"), [("/late-first-chunk", 499), ("/hang", 504)])
def test_disconnected_client_is_499_not_a_server_error(
    server: Server, path: str, status: int
) -> None:
    with log_of(server) as log:
        wire = Wire(server)
        request_id = uuid.uuid4().hex
        trusted = f"X-Forwarded-For: 192.0.2.1\r\nX-Request-ID: {request_id}\r\n".encode()
        wire.send(f"GET {path} HTTP/1.1\r\n".encode(), HOST, trusted, b"\r\n")
        if status == 499:
            wire.head()
        wire.close()
        server.wait_for_log(request_id)

    assert [line["status"] for line in log if line["event"] == "request"] == [status]


def once_there_is_room(send: Callable[[], HttpResponse]) -> HttpResponse:
    """Repeat a request until the previous one no longer counts, shortly after its response."""
    answers = (send() for _ in range(1000))
    return next(response for response in answers if response.status != 503)


def test_refusals_of_the_layer_use_handlers_of_the_service(serve_routes: ServeRoutes) -> None:
    settings = {"ALLOWED_HOSTS": "127.0.0.1", "MAX_CONCURRENCY": "1", "OWN_HANDLERS": "yes"}
    with serve_routes(**settings) as server:
        with Wire(server) as held:
            held.send(b"GET /late-first-chunk HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n")
            held.head()
            full = server.get("/nowhere")
        server.wait_for_log("/late-first-chunk")
        responses = [
            full,
            once_there_is_room(lambda: server.get("/hang")),
            once_there_is_room(lambda: server.request("POST", "/echo", LARGE)),
            once_there_is_room(lambda: server.request("POST", "/echo", iter([LARGE]))),
            once_there_is_room(lambda: server.get("/nowhere", Host="other.example")),
            once_there_is_room(lambda: server.get("/raise")),
        ]

    assert [(response.status, response.body) for response in responses] == [
        (503, b"own 503"),
        (504, b"own 504"),
        (413, b"own 413"),
        (413, b"own 413"),
        (400, b"own 400"),
        (500, b"own 500"),
    ]
    assert all("x-request-id" in response.headers for response in responses)


def test_request_ids_are_unique_after_random_seed(server: Server) -> None:
    ids = [server.get("/seed").headers["x-request-id"] for _ in range(3)]

    assert len(set(ids)) == 3


def test_labels_are_bounded_by_declared_routes(server: Server) -> None:
    with log_of(server) as log, ThreadPoolExecutor(8) as clients:
        list(clients.map(lambda n: server.get(f"/t/tenant-{n}/orders/{n}"), range(50)))
        server.get("/t/x/nowhere")
        server.request("QUERY", "/nowhere")

    assert {(line["method"], line["route"]) for line in log} == {
        ("GET", "/t/{tenant}/orders/{number}"),
        ("GET", "/t/{tenant}/{path}"),
        ("QUERY", "unmatched"),
    }


@pytest.mark.parametrize("target", ["kubernetes"], indirect=True, scope="session")
def test_health_routes_below_a_prefix_keep_their_label(serve_routes: ServeRoutes) -> None:
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
