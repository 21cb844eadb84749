"""WebSockets have an ID, a log line, metrics and limits, and are closed at shutdown."""

import dataclasses
import http.client
import socket
from contextlib import ExitStack

import pytest
from websockets.exceptions import ConnectionClosed, InvalidStatus
from websockets.sync.client import connect

from ..harness.server import Server, free_port
from ..harness.wait import wait_until
from ..harness.wire import log_of
from .conftest import ServeRoutes


def url(server: Server, path: str) -> str:
    return f"ws://127.0.0.1:{server.port}{path}"


def test_ended_websocket_logs_one_line_without_its_query(server: Server) -> None:
    with log_of(server) as log:
        with connect(url(server, "/echo/7?jwt=hunter2")) as room:
            assert room.response
            request_id = room.response.headers["x-request-id"]
            room.send("bye")
            with pytest.raises(ConnectionClosed):
                room.recv(timeout=60)
        server.wait_for_log(request_id)

    [line] = log
    assert (line["event"], line["route"], line["close_code"]) == ("websocket", "/echo/{room}", 4000)
    assert (line["status"], line["request_id"]) == (101, request_id)
    assert line["duration_ms"] > 0
    assert "hunter2" not in server.log


def test_refused_handshake_logs_one_line(server: Server) -> None:
    with log_of(server) as log, pytest.raises(InvalidStatus, match="403"):
        connect(url(server, "/nowhere?jwt=hunter2"))

    assert [(line["event"], line["route"], line["status"]) for line in log] == [
        ("websocket", "unmatched", 403)
    ]
    assert "hunter2" not in server.log


@pytest.mark.parametrize("path", ["/fail-before-accept", "/never-accept"])
def test_handshake_without_a_response_is_a_500(server: Server, path: str) -> None:
    with log_of(server) as log, pytest.raises(InvalidStatus, match="500") as failed:
        connect(url(server, path))

    [line] = [line for line in log if line["event"] == "websocket"]
    assert (line["route"], line["status"], line["close_code"]) == (path, 500, None)
    if path == "/fail-before-accept":
        assert failed.value.response.headers["x-request-id"] == line["request_id"]
        [error] = [line for line in log if "exception" in line]
        assert error["request_id"] == line["request_id"]
        assert error["exception"].endswith("LookupError: before it was accepted")


def test_websocket_with_an_unknown_host_is_refused(serve_routes: ServeRoutes) -> None:
    with serve_routes(ALLOWED_HOSTS="127.0.0.1") as server:
        evil = socket.create_connection(("127.0.0.1", server.port))
        with pytest.raises(InvalidStatus, match="400") as refused:
            connect("ws://evil.example/echo/1", sock=evil)
        headers = refused.value.response.headers
        assert (headers["cache-control"], headers["x-content-type-options"]) == (
            "no-store",
            "nosniff",
        )
        with connect(url(server, "/echo/1")) as room:
            room.send("hello")
            assert room.recv(timeout=60) == "hello"


def test_more_websockets_than_the_limit_get_503_and_requests_are_served(
    serve_routes: ServeRoutes,
) -> None:
    with serve_routes(MAX_CONCURRENCY="3") as server, ExitStack() as stack:
        opened, refused = 0, 0
        for _ in range(20):
            try:
                stack.enter_context(connect(url(server, "/echo/1")))
                opened += 1
            except InvalidStatus as refusal:
                refused += refusal.response.status_code == 503
        assert (opened, refused) == (3, 17)
        assert server.get("/go").status == 200


def test_open_ended_and_refused_websockets_are_counted(serve_routes: ServeRoutes) -> None:
    port = free_port()
    with serve_routes(METRICS_PORT=str(port)) as server:
        metrics = dataclasses.replace(server, port=port)
        with connect(url(server, "/echo/1")) as room:

            def sampled() -> bool:  # each second
                return "websockets_open 1.0" in metrics.get("/metrics").body.decode()

            wait_until(sampled, "sampled")
            room.send("bye")
        server.wait_for_log('"close_code":4000')
        with pytest.raises(InvalidStatus, match="403"):
            connect(url(server, "/nowhere"))
        server.wait_for_log('"status":403')
        text = metrics.get("/metrics").body.decode()

    refused = 'method="GET",route="unmatched",status="403"'
    assert f"http_request_duration_seconds_count{{{refused}}} 1.0" in text
    labels = 'close_code="4000",route="/echo/{room}"'
    assert f"websocket_duration_seconds_count{{{labels}}} 1.0" in text


def test_websocket_is_closed_at_shutdown(serve_routes: ServeRoutes) -> None:
    with serve_routes() as server, connect(url(server, "/echo/1")) as room:
        room.send("hello")
        assert room.recv(timeout=60) == "hello"
        server.process.terminate()
        with pytest.raises(ConnectionClosed) as ended:
            room.recv(timeout=60)
        server.process.wait(30)

    assert ended.value.rcvd is not None
    assert ended.value.rcvd.code == 1012
    [line] = [event for event in server.events if event["event"] == "websocket"]
    assert line["close_code"] == 1012


def test_plain_request_to_a_websocket_route_is_a_client_error(server: Server) -> None:
    connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=60)
    connection.request("GET", "/echo/1")
    assert connection.getresponse().status == 404
