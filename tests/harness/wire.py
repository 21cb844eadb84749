"""Raw HTTP: requests that no client library sends, responses, and log lines."""

import socket
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Self

from .server import HttpResponse, Server

HOST = b"Host: localhost\r\n"


class Wire:
    """A connection to a server, with a timeout of 60 s."""

    def __init__(self, server: Server) -> None:
        self.socket = socket.create_connection(("127.0.0.1", server.port), timeout=60)
        self._received = self.socket.makefile("rb")

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Close the connection."""
        self._received.close()
        self.socket.close()

    def send(self, *parts: bytes) -> None:
        """Send raw bytes; it is not an error if the server closes the connection."""
        try:
            for part in parts:
                self.socket.sendall(part)
        except ConnectionError:
            pass  # earlier responses can still be read

    def response(self, method: str = "GET") -> HttpResponse:
        """Return the next response to a request with that method.

        Raises `ConnectionError` when there is none, `EOFError` when it ends too early.
        """
        status, headers = self.head()
        if method == "HEAD" or status < 200 or status in (204, 304):
            body = b""
        elif headers.get("transfer-encoding") == "chunked":
            body = b"".join(iter(self.chunk, b""))
        elif "content-length" in headers:
            body = self._exactly(int(headers["content-length"]))
        else:
            body = self._received.read()
        return HttpResponse(status, headers, body)

    def head(self) -> tuple[int, dict[str, str]]:
        """Return the status of the next response, and its headers by lower-case name."""
        version, status, _ = (self._line() or "closed 0 ").split(" ", 2)
        if version != "HTTP/1.1":
            raise ConnectionError(f"no response: {version} {status}")
        fields = [line.split(": ", 1) for line in iter(self._line, "")]
        headers = {name.lower(): value for name, value in fields}
        assert len(headers) == len(fields), f"duplicate header: {fields}"
        return int(status), headers

    def chunk(self) -> bytes:
        """Return the next chunk of a body; nothing for the last one."""
        size = self._line()
        data = self._exactly(int(size, 16))
        if self._line():
            raise EOFError("incomplete chunk")
        return data

    def rest(self) -> bytes:
        """Return everything until the server closes the connection."""
        return self._received.read()

    def closed(self) -> bool:
        """Wait for data or the end of the connection; return whether the server has closed it."""
        try:
            return self._received.read(1) == b""
        except ConnectionError:
            return True

    def _line(self) -> str:
        return self._received.readline().removesuffix(b"\r\n").decode("latin-1")

    def _exactly(self, size: int) -> bytes:
        data = self._received.read(size)
        if len(data) < size:
            raise EOFError(f"{len(data)} bytes of {size}")
        return data


@contextmanager
def log_of(server: Server) -> Iterator[list[dict[str, Any]]]:
    """Yield a list, to which the log lines of the block's requests are added at its end.

    Raises `AssertionError` if the server is not ready afterwards, `ValueError` for a line that is
    not JSON.
    """
    first = _mark(server)
    output: list[dict[str, Any]] = []
    yield output
    server.wait_until_ready()
    last = _mark(server)
    events = server.events
    ids = [event.get("request_id") for event in events]
    output += events[ids.index(first) + 1 : ids.index(last)]


def _mark(server: Server) -> str:
    """Send a marker request and wait for its log line: earlier lines come before it."""
    mark = uuid.uuid4().hex
    server.get("/nowhere", **{"X-Forwarded-For": "192.0.2.1", "X-Request-ID": mark})
    server.wait_for_log(mark)
    return mark
