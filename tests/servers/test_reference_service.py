"""The reference service on each target's server: FastAPI features behave as without the layer."""

import json
import signal
import socket
import sqlite3
import tempfile
import threading
import uuid
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, closing, contextmanager
from functools import partial
from hashlib import sha256
from http.client import HTTPConnection
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import httpx2
import pytest
from websockets.exceptions import ConnectionClosed
from websockets.sync.client import connect

from ..harness.project import Project
from ..harness.server import START_SECONDS, HttpResponse, Server, serve
from ..harness.wait import wait_until

TOKEN = "a-token"
ORIGIN = "https://app.example.com"
FROM_BROWSER = {"Origin": ORIGIN}
MEBIBYTE = b"x" * 2**20
# More bytes than the buffers of uvicorn and the kernel.
LARGE = "/large-response?size_kb=4096"

TOO_LARGE = {"error": "too large"}
TOO_SLOW = {"error": "too slow"}
FAILED = {"error": "failed"}


class Ledger:
    """A running reference service."""

    def __init__(self, server: Server, database: Path) -> None:
        self.server = server
        self.database = database
        self.url = f"127.0.0.1:{server.port}"
        self.client = httpx2.Client(base_url=f"http://{self.url}", trust_env=False, timeout=30)

    def transfer(self, path: str, reference: str, delay: float = 0) -> httpx2.Response:
        """Request a transfer that waits `delay` seconds between debit and credit."""
        order = {"reference": reference, "source": 1, "target": 2, "amount": 5}
        return self.client.post(path, params={"delay": delay}, json=order)

    def entries(self, reference: str) -> list[int]:
        """Read the committed amounts of a transfer from the database file."""
        query = "SELECT amount FROM entries WHERE reference = ? ORDER BY id"
        with closing(sqlite3.connect(self.database)) as connection:
            return [amount for (amount,) in connection.execute(query, (reference,))]

    def writes(self) -> bool:
        """Return whether a writing transaction is open."""
        with closing(sqlite3.connect(self.database, timeout=0)) as connection:
            try:
                connection.execute("BEGIN IMMEDIATE")
            except sqlite3.OperationalError:
                return True
            return False

    def member(self, name: str) -> Any:
        """Enter the chat room."""
        return connect(f"ws://{self.url}/room?name={name}")


Start = Callable[..., AbstractContextManager[Ledger]]

with_and_without_middleware = pytest.mark.parametrize(
    "key", [None, "a-key"], ids=["no middleware", "BaseHTTPMiddleware"]
)


@pytest.fixture(scope="module")
def rates(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The URL of the exchange rate service."""
    directory = tmp_path_factory.mktemp("rates")
    (directory / "rates.json").write_text('{"NOK": 11.5}')
    handler = partial(SimpleHTTPRequestHandler, directory=str(directory))
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}/rates.json"
        server.shutdown()


@pytest.fixture(scope="module")
def start(
    reference: Project, tmp_path_factory: pytest.TempPathFactory, rates: str
) -> Iterator[Start]:
    """Start the service with an empty database, in one process; a setting that is None is unset."""

    @contextmanager
    def start(**env: str | None) -> Iterator[Ledger]:
        log = tmp_path_factory.mktemp("ledger") / "log"
        database = Path(memory) / f"{uuid.uuid4().hex}.db"
        settings = {
            "API_TOKEN": TOKEN,
            "CORS_ORIGINS": ORIGIN,
            "DATABASE_FILE": str(database),
            "RATES_URL": rates,
            "SIGNATURE_KEY": "a-key",
            "WEB_CONCURRENCY": "1",
        }
        given = {name: value for name, value in {**settings, **env}.items() if value is not None}
        with serve(reference, log, env=given) as server:
            ledger = Ledger(server, database)
            with ledger.client:
                yield ledger

    # In memory: other tests write to the disk.
    with tempfile.TemporaryDirectory(dir="/dev/shm") as memory:
        yield start


@pytest.fixture(scope="module")
def ledger(start: Start) -> Iterator[Ledger]:
    """The service, started once for tests that leave no data."""
    with start() as ledger:
        yield ledger


def multipart(content: bytes) -> tuple[dict[str, str], bytes]:
    """Return the headers and the body of a form with a file."""
    request = httpx2.Request("POST", "http://test", data={"title": "plan"}, files={"file": content})
    return {"Content-Type": request.headers["content-type"]}, request.read()


# ── Own tests and linters ─────────────────────────────────────────────────────────────────────


def test_reference_service_passes_its_own_tests(reference: Project) -> None:
    assert "passed" in reference.uv("run", "--quiet", "pytest").stdout


def test_reference_service_passes_its_linters(reference: Project) -> None:
    reference.uv("run", "--quiet", "ruff", "check")
    reference.uv("run", "--quiet", "ruff", "format", "--check", "--diff")
    reference.uv("run", "--quiet", "mypy")


# ── Requests ──────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    ("authorization", "status"),
    [(None, 401), ("Bearer guess", 401), (f"Bearer {TOKEN}", 201)],
)
def test_account_is_opened_only_with_the_token(
    ledger: Ledger, authorization: str | None, status: int
) -> None:
    headers = {"Authorization": authorization} if authorization else {}

    response = ledger.client.post(
        "/accounts", json={"tenant": "acme", "name": "rent"}, headers=headers
    )

    assert response.status_code == status
    assert ("www-authenticate" in response.headers) == (status == 401)


def test_commit_is_visible_to_the_next_request(ledger: Ledger) -> None:
    """The session is committed before the response is sent."""
    token = {"Authorization": f"Bearer {TOKEN}"}

    for number in range(50):
        account = {"tenant": "quick", "name": str(number)}
        opened = ledger.client.post("/accounts", json=account, headers=token).json()
        read = ledger.client.get(f"/accounts/{opened['id']}", headers=token)
        assert read.json() == opened


def test_mounted_application_with_a_path_parameter_is_served(ledger: Ledger) -> None:
    token = {"Authorization": f"Bearer {TOKEN}"}
    ledger.client.post("/accounts", json={"tenant": "below", "name": "food"}, headers=token)

    assert ledger.client.get("/tenants/below/accounts").json() == ["food"]
    assert ledger.client.get("/tenants/nowhere/accounts").json() == []
    assert ledger.client.get("/tenants/below/nothing").status_code == 404


def test_static_file_is_served_and_revalidated(ledger: Ledger) -> None:
    file = ledger.client.get("/static/rates.json")
    again = ledger.client.get("/static/rates.json", headers={"If-None-Match": file.headers["etag"]})

    assert file.json()["EUR"] == 1.0
    assert (again.status_code, again.content) == (304, b"")


def test_rate_is_read_from_another_service(ledger: Ledger) -> None:
    assert ledger.client.get("/rates/NOK").json() == 11.5
    assert ledger.client.get("/rates/XXX").status_code == 404


def test_form_is_parsed(ledger: Ledger) -> None:
    response = ledger.client.post("/feedback", data={"name": "Ada", "stars": "5"})

    assert response.json() == "Ada: 5"
    assert response.headers["x-verified"] == "no", "set by the service's middleware"


def test_route_with_a_higher_body_limit_accepts_5_mib(ledger: Ledger) -> None:
    content = MEBIBYTE * 5

    response = ledger.client.post("/uploads", data={"title": "plan"}, files={"file": content})

    assert response.status_code == 200
    assert response.json() == {
        "title": "plan",
        "size": len(content),
        "sha256": sha256(content).hexdigest(),
    }


# ── Errors: bodies of the service, and CORS ───────────────────────────────────────────────────


@pytest.mark.parametrize(
    ("method", "path", "status", "body"),
    [
        ("GET", "/large-response?size_kb=1", 200, None),
        ("GET", "/nothing", 404, None),
        ("DELETE", "/room", 405, None),
        ("GET", "/accounts/1", 401, None),
        ("POST", "/feedback", 422, {"error": "invalid", "fields": ["body.name", "body.stars"]}),
        ("GET", "/faults/error?message=secret", 500, FAILED),
    ],
)
def test_error_has_the_services_body_and_cors(
    ledger: Ledger, method: str, path: str, status: int, body: object
) -> None:
    response = ledger.server.request(method, path, **FROM_BROWSER)

    assert response.status == status
    assert body is None or json.loads(response.body) == body
    assert response.headers["access-control-allow-origin"] == ORIGIN
    assert response.headers["x-request-id"]


def test_preflight_of_an_authenticated_route_is_200(ledger: Ledger) -> None:
    requested = {"Access-Control-Request-Method": "POST"}
    requested["Access-Control-Request-Headers"] = "authorization"

    response = ledger.server.request("OPTIONS", "/accounts", **FROM_BROWSER, **requested)

    assert response.status == 200
    assert response.headers["access-control-allow-origin"] == ORIGIN
    assert response.headers["access-control-allow-headers"] == "authorization"


@pytest.mark.parametrize("chunked", [False, True], ids=["declared", "chunked"])
@pytest.mark.parametrize("mebibytes", [2, 20])
def test_body_over_the_limit_is_a_413_with_the_services_body_and_cors(
    ledger: Ledger, mebibytes: int, chunked: bool
) -> None:
    """For a client that sends the whole body before it reads."""
    headers, body = multipart(MEBIBYTE * mebibytes)
    pieces = (body[start : start + 2**16] for start in range(0, len(body), 2**16))

    response = ledger.server.request(
        "POST", "/avatars", pieces if chunked else body, **headers, **FROM_BROWSER
    )

    assert (response.status, json.loads(response.body)) == (413, TOO_LARGE)
    assert response.headers["access-control-allow-origin"] == ORIGIN


def test_input_of_an_invalid_request_is_not_logged(ledger: Ledger) -> None:
    ledger.client.post("/feedback", data={"name": "Ada", "stars": "hunter2"})
    ledger.server.wait_until_ready()

    assert "hunter2" not in ledger.server.log


# ── Deadlines ─────────────────────────────────────────────────────────────────────────────────


def test_coroutine_over_the_deadline_is_a_504_with_the_services_body_and_cors(
    start: Start,
) -> None:
    with start(REQUEST_TIMEOUT_SECONDS="0.5") as ledger:
        response = ledger.client.get("/faults/slow", headers=FROM_BROWSER)

    assert (response.status_code, response.json()) == (504, TOO_SLOW)
    assert response.headers["access-control-allow-origin"] == ORIGIN


@with_and_without_middleware
def test_transfer_in_a_thread_past_the_deadline_is_whole_or_absent(
    start: Start, key: str | None
) -> None:
    with start(REQUEST_TIMEOUT_SECONDS="2", SIGNATURE_KEY=key) as ledger:
        response = ledger.transfer("/transfers", "cut", delay=4)
        ledger.server.wait_for_log("Transferred cut")  # a thread can't be cancelled

        entries = ledger.entries("cut")

    assert entries in ([], [-5, 5])
    if response.status_code == 201:
        assert entries == [-5, 5]
    else:
        assert (response.status_code, response.json()) == (504, TOO_SLOW)


@with_and_without_middleware
def test_transfer_in_a_coroutine_past_the_deadline_is_rolled_back(
    start: Start, key: str | None
) -> None:
    with start(REQUEST_TIMEOUT_SECONDS="0.5", SIGNATURE_KEY=key) as ledger:
        response = ledger.transfer("/async-transfers", "cut", delay=1)

        entries = ledger.entries("cut")

    assert (response.status_code, response.json()) == (504, TOO_SLOW)
    assert entries == []


def test_cancelled_transfer_does_not_block_the_next(start: Start) -> None:
    with start(REQUEST_TIMEOUT_SECONDS="3") as ledger:
        ledger.transfer("/async-transfers", "cut", delay=20)

        assert ledger.transfer("/async-transfers", "next").status_code == 201
        assert ledger.entries("next") == [-5, 5]
        assert ledger.entries("cut") == []


# ── Threads and connections ───────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("env", [{}, {"THREADS": "2"}], ids=["default", "2 threads"])
def test_more_clients_than_connections_and_threads_all_get_responses(
    start: Start, env: dict[str, str]
) -> None:
    """A session dependency limited to the pool's size can't deadlock with the threads."""
    with start(**env) as ledger, ThreadPoolExecutor(40) as clients:
        ask = [partial(ledger.transfer, path, "many", 0.01) for path in ("/transfers",) * 60]
        reads = [partial(ledger.client.get, "/notices")] * 60

        answers = list(clients.map(lambda call: call(), [*ask, *reads]))

        assert {response.status_code for response in answers} == {200, 201}
        assert len(ledger.entries("many")) == 120


# ── Streams and WebSockets ────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("encoding", ["identity", "gzip"])
def test_server_sent_events_arrive_one_by_one(ledger: Ledger, encoding: str) -> None:
    headers = {"Accept-Encoding": encoding, **FROM_BROWSER}
    with ledger.client.stream("GET", "/room/events?limit=2", headers=headers) as events:
        lines = (line for line in events.iter_lines() if line.startswith(("event:", "data:")))
        assert [next(lines), next(lines)] == ["event: open", 'data: ""']
        for text in ("first", "second"):
            ledger.client.post("/room", json={"text": text})  # sent once the last was read
            assert [next(lines), next(lines)] == ["event: message", f'data: "{text}"']
        assert list(lines) == []

    assert events.headers["content-type"].startswith("text/event-stream")
    assert events.headers["access-control-allow-origin"] == ORIGIN


@pytest.mark.parametrize("encoding", ["identity", "gzip"])
def test_lines_of_json_arrive_one_by_one(ledger: Ledger, encoding: str) -> None:
    headers = {"Accept-Encoding": encoding}
    with ledger.client.stream("GET", "/room/messages?limit=2", headers=headers) as messages:
        lines = messages.iter_lines()
        assert json.loads(next(lines)) == {"state": "open"}
        for text in ("first", "second"):
            ledger.client.post("/room", json={"text": text})
            assert json.loads(next(lines)) == {"text": text}
        assert list(lines) == []


def test_stream_may_exceed_the_deadline(start: Start) -> None:
    """The deadline applies to the start of the response only."""
    with (
        start(REQUEST_TIMEOUT_SECONDS="2") as ledger,
        ledger.client.stream("GET", "/room/messages?limit=1") as messages,
    ):
        lines = messages.iter_lines()
        next(lines)
        assert ledger.client.get("/faults/slow").status_code == 504, "the deadline has passed"
        ledger.client.post("/room", json={"text": "late"})

        assert json.loads(next(lines)) == {"text": "late"}


def test_room_broadcasts_messages_and_departures(ledger: Ledger) -> None:
    with ledger.member("ada") as ada:
        assert ada.recv(10) == "ada joined"
        with ledger.member("ben") as ben:
            assert [ada.recv(10), ben.recv(10)] == ["ben joined"] * 2
            ben.send("hello")
            assert [ada.recv(10), ben.recv(10)] == ["ben: hello"] * 2
        assert ada.recv(10) == "ben left"
        ada.send("alone")
        assert ada.recv(10) == "ada: alone"


def test_broken_websocket_leaves_the_room(ledger: Ledger) -> None:
    with ledger.member("ada") as ada:
        ada.recv(10)
        ben = ledger.member("ben")
        assert ada.recv(10) == "ben joined"
        ben.socket.shutdown(socket.SHUT_RDWR)

        assert ada.recv(10) == "ben left"


# ── Background tasks ──────────────────────────────────────────────────────────────────────────


def fail_a_notice(ledger: Ledger) -> HttpResponse:
    """Start a background task that fails."""
    json_type = {"Content-Type": "application/json"}
    return ledger.server.request("POST", "/notices?fail=true", '{"text": "lost"}', **json_type)


def test_background_task_runs_after_the_response(ledger: Ledger) -> None:
    response = ledger.client.post("/notices", json={"text": "works"})

    assert (response.status_code, response.json()) == (202, "accepted")
    wait_until(lambda: "works" in ledger.client.get("/notices").json(), "stored")


@pytest.mark.parametrize("path", ["/notices?fail=true", "/faults/error?message=no+ink"])
def test_connection_after_a_failure_is_closed_or_reusable(ledger: Ledger, path: str) -> None:
    with closing(HTTPConnection("127.0.0.1", ledger.server.port, timeout=10)) as connection:
        for _ in range(20):
            method, body = ("POST", '{"text": "fails"}') if "notices" in path else ("GET", None)
            connection.request(method, path, body, {"Content-Type": "application/json"})
            failed = connection.getresponse()
            failed.read()
            assert failed.status == (202 if body else 500)
            if failed.getheader("Connection") != "close":
                connection.request("GET", "/notices")
                served = connection.getresponse()
                served.read()
                assert served.status == 200


def test_failed_background_task_is_logged_with_its_cause(ledger: Ledger) -> None:
    fail_a_notice(ledger)

    ledger.server.wait_for_log("no printer for lost")


# ── Sentry and OpenTelemetry ──────────────────────────────────────────────────────────────────


def test_sentry_receives_errors_of_routes_and_background_tasks(start: Start) -> None:
    with start(SENTRY_DSN="http://key@127.0.0.1:1/1") as ledger:
        ledger.server.get("/faults/error?message=no+ink")
        fail_a_notice(ledger)

        ledger.server.wait_for_log("Sentry event: RuntimeError: no ink")
        ledger.server.wait_for_log("Sentry event: ConnectionError: no printer for lost")


def test_opentelemetry_instrumentor_records_a_span_per_request(start: Start) -> None:
    with start(RECORD_SPANS="true") as ledger:
        for path in ("/notices", "/faults/error?message=no+ink", "/tenants/acme/accounts"):
            ledger.server.get(path)

        for span in ("GET /notices", "GET /faults/error", "GET /tenants/{tenant}"):
            ledger.server.wait_for_log(f"Span: {span}")


def test_sentry_and_instrumentor_are_off_by_default(ledger: Ledger) -> None:
    ledger.server.get("/faults/error?message=dry+pen")
    ledger.server.wait_for_log("dry pen")

    assert "Sentry event" not in ledger.server.log
    assert "Span:" not in ledger.server.log


# ── The end ───────────────────────────────────────────────────────────────────────────────────


def test_shutdown_finishes_requests_in_flight_and_closes_websockets(start: Start) -> None:
    with start() as ledger, ThreadPoolExecutor() as clients:
        server = ledger.server
        with ledger.member("ada") as ada, socket.socket() as download:
            ada.recv(10)
            download.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
            download.connect(("127.0.0.1", server.port))
            download.sendall(f"GET {LARGE} HTTP/1.1\r\nHost: localhost\r\n\r\n".encode())
            received = download.recv(100)  # the rest remains in the server's buffers
            transfer = clients.submit(ledger.transfer, "/transfers", "in flight", 5)
            wait_until(ledger.writes, "writing")

            server.process.send_signal(signal.SIGTERM)
            with pytest.raises(ConnectionClosed) as closed:
                ada.recv(30)
            received += b"".join(iter(lambda: download.recv(2**16), b""))
            server.process.wait(START_SECONDS)

        assert transfer.result().status_code == 201
        assert ledger.entries("in flight") == [-5, 5]
        assert closed.value.rcvd is not None
        assert closed.value.rcvd.code == 1012
        head, _, body = received.partition(b"\r\n\r\n")
        assert f"content-length: {len(body)}".encode() in head.lower()
        assert "Traceback" not in server.log
