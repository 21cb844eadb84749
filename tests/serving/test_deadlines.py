"""Deadlines: cancelled requests, exempt ones, and log lines."""

import dataclasses
import json
from concurrent.futures import ThreadPoolExecutor

import pytest

from ..harness.server import Server, free_port
from ..harness.wait import wait_until
from ..harness.wire import HOST, Wire, log_of
from .conftest import ServeRoutes

BOUNDARY = b"Content-Type: multipart/form-data; boundary=B\r\n"
PART = b'--B\r\nContent-Disposition: form-data; name="file"; filename="f"\r\n\r\n'


@pytest.mark.parametrize("route", ["/transfer", "/transfer-in-coroutine"])
@pytest.mark.parametrize("below", ["", "/wrapped"])
def test_transaction_past_the_deadline_is_whole_or_absent(
    server: Server, below: str, route: str
) -> None:
    before = json.loads(server.get("/entries").body)

    response = server.request("POST", f"{below}{route}?seconds=1.5")

    after = json.loads(server.get("/entries").body)
    assert after[len(before) :] in ([], ["debit", "credit"])
    assert response.status in (200, 504)
    if route == "/transfer-in-coroutine":
        assert (response.status, after) == (504, before)


def test_requests_waiting_for_a_thread_get_504_and_add_no_thread(
    serve_routes: ServeRoutes,
) -> None:
    with serve_routes(THREADS="4") as server, ThreadPoolExecutor(40) as clients:
        answers = list(clients.map(lambda _: server.get("/block?seconds=2"), range(40)))

        assert json.loads(server.get("/threads").body) <= 4

    statuses = [response.status for response in answers]
    assert statuses.count(504) >= 36


def test_threads_in_use_and_calls_that_wait_are_counted(serve_routes: ServeRoutes) -> None:
    port = free_port()
    settings = {"THREADS": "2", "METRICS_PORT": str(port), "REQUEST_TIMEOUT_SECONDS": "30"}
    with ThreadPoolExecutor(5) as pool, serve_routes(**settings) as server:
        metrics = dataclasses.replace(server, port=port)
        for _ in range(5):
            pool.submit(server.get, "/block?seconds=20")
        wanted = {"threads_in_use 2.0", "threads_waiting 3.0", "threads_limit 2.0"}

        def sampled() -> bool:  # each second
            return wanted <= set(metrics.get("/metrics").body.decode().splitlines())

        wait_until(sampled, "sampled")


@pytest.mark.parametrize("below", ["", "/wrapped"])
@pytest.mark.parametrize(
    ("path", "function", "error"),
    [
        ("/hang", "hang_here", None),
        ("/hang-and-fail", "hang_and_fail", "while cleaning up"),
        ("/hang-and-fail-in-a-group", "hang_and_fail_in_a_group", "while cleaning up"),
    ],
)
def test_cancelled_request_leaves_one_line_with_its_stack_and_error(
    server: Server, below: str, path: str, function: str, error: str | None
) -> None:
    with log_of(server) as log:
        response = server.get(below + path)

    cut, request = log
    assert (response.status, request["status"]) == (504, 504)
    assert cut["event"] == f"No response within 1.0 s: cancelled GET {below}{path}"
    assert f"in {function}" in cut["stack"]
    assert cut["request_id"] == request["request_id"]
    # Starlette's BaseHTTPMiddleware drops exceptions of a cancelled application.
    assert below or (error or "") in cut.get("exception", "")
    assert error or "exception" not in cut


def test_route_with_a_longer_deadline_is_not_cancelled(server: Server) -> None:
    assert json.loads(server.get("/long").body) == "done"


def test_slow_upload_to_a_route_with_a_longer_deadline_is_read(server: Server) -> None:
    """The body is read before dependencies run: the deadline is read from the route itself."""
    with log_of(server) as log, Wire(server) as slow, Wire(server) as cut:
        slow.send(b"POST /long-upload HTTP/1.1\r\n", HOST, BOUNDARY, b"Content-Length: 78\r\n\r\n")
        cut.send(b"POST /upload HTTP/1.1\r\n", HOST, BOUNDARY, b"Content-Length: 78\r\n\r\n")
        slow.send(PART)
        assert (
            cut.response().status == 504
        )  # now the default deadline has passed for the other request, too
        slow.send(b"hello\r\n--B--\r\n")
        assert slow.response().body == b"5"

    assert sorted(line["status"] for line in log if line["event"] == "request") == [200, 504]


def test_in_process_request_leaves_the_outer_deadline_and_its_id(server: Server) -> None:
    with log_of(server) as log:
        response = server.get("/call-myself")

    outer = response.headers["x-request-id"]
    assert response.status == 504
    [output] = [line for line in log if line["event"] == "after the inner request"]
    assert output["request_id"] == outer
    inner = [line for line in log if line["event"] == "request" and line["status"] == 404]
    assert [line["request_id"] == outer for line in inner] == [False]
