"""Ten thousand idle connections, and twenty thousand requests without a leak."""

import os
import resource
import socket
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pytest

from ..harness.project import Project
from ..harness.server import Server, serve
from ..harness.wait import wait_until
from ..harness.wire import HOST, Wire

CONNECTIONS = 10_000
# Other open files of each process.
OPEN_FILES = CONNECTIONS + 500

# Tolerated growth in bytes, measured while connections are open: the allocator keeps freed pages.
# Leaked connections of 4 KiB would be 40 MiB; 300 bytes per request would be 4.3 MiB.
SLACK = 4 * 2**20

LENGTH = b"Content-Length: 22\r\nContent-Type: application/json\r\n\r\n"
MIXED = (
    b"GET /health/ready HTTP/1.1\r\n" + HOST + b"\r\n",
    b"GET /large-response?size_kb=1 HTTP/1.1\r\n" + HOST + b"Accept-Encoding: zstd\r\n\r\n",
    b"GET /large-response?size_kb=2 HTTP/1.1\r\n" + HOST + b"Accept-Encoding: br\r\n\r\n",
    b"GET /large-response?size_kb=none HTTP/1.1\r\n" + HOST + b"\r\n",
    b"GET /nowhere/%d HTTP/1.1\r\n" + HOST + b"Accept-Encoding: gzip;q=0.%d\r\n\r\n",
    b"POST /health/live HTTP/1.1\r\n" + HOST + LENGTH + b'{"some": "body of 22"}',
)
# Large enough for a thread.
LAST = b"GET /large-response?size_kb=200 HTTP/1.1\r\n" + HOST
LAST += b"Accept-Encoding: zstd\r\nConnection: close\r\n\r\n"


@pytest.fixture(scope="module", autouse=True)
def _enough_files() -> Iterator[None]:
    """Raise the file limit of this process, which child processes inherit."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = max(hard, OPEN_FILES)  # root can also raise the hard limit
    resource.setrlimit(resource.RLIMIT_NOFILE, (OPEN_FILES, wanted))
    yield
    resource.setrlimit(resource.RLIMIT_NOFILE, (soft, wanted))


@pytest.fixture
def server(project: Project, tmp_path: Path) -> Iterator[Server]:
    """The service in one process, which handles all connections."""
    with serve(project, tmp_path / "log", env={"WEB_CONCURRENCY": "1"}) as server:
        yield server


def serving(server: Server) -> int:
    """Return the serving process: under gunicorn, the worker."""
    pid = server.process.pid
    children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    return int(children[0]) if children else pid


def resident(server: Server) -> int:
    """Return its resident memory in bytes."""
    pages = Path(f"/proc/{serving(server)}/statm").read_text().split()[1]
    return int(pages) * os.sysconf("SC_PAGESIZE")


def open_files(server: Server) -> int:
    return len(os.listdir(f"/proc/{serving(server)}/fd"))


@contextmanager
def idle_connections(server: Server) -> Iterator[None]:
    """Yield `number` accepted connections."""
    before = open_files(server)
    with ExitStack() as stack:
        for _ in range(CONNECTIONS):
            stack.enter_context(socket.create_connection(("127.0.0.1", server.port)))
        # Ten more or fewer, because the connections of other requests may still be open.
        wait_until(lambda: open_files(server) >= before + CONNECTIONS - 10, "accepted")
        yield
    wait_until(lambda: open_files(server) <= before + 10, "closed")


def test_requests_are_served_with_ten_thousand_idle_connections(server: Server) -> None:
    held = []
    for _ in range(2):
        with idle_connections(server):
            assert server.get("/health/live").status == 200
            assert server.get("/health/ready").status == 200
            assert server.get("/large-response").status == 200
            held.append(resident(server))

    first, second = held
    assert second - first < SLACK, held


def send_mixed(server: Server, numbers: range) -> None:
    """Send requests, a hundred per connection, and check that all get a response."""
    for start in range(numbers.start, numbers.stop, 100):
        with Wire(server) as wire:
            wire.send(*(mixed(number) for number in range(start, start + 99)), LAST)
            assert wire.rest().count(b"\r\nx-request-id: ") == 100


def mixed(number: int) -> bytes:
    """Return a request with a unique path and Accept-Encoding."""
    request = MIXED[number % len(MIXED)]
    return request % (number, number % 1000) if b"%d" in request else request


def test_twenty_thousand_requests_leak_no_memory_or_files(server: Server) -> None:
    send_mixed(server, range(5_000))
    first = resident(server)
    send_mixed(server, range(5_000, 20_000))
    last = resident(server)

    assert last - first < SLACK, (first, last)
