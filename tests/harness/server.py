"""A rendered project's server, started as in the image or the unit."""

import http.client
import importlib.util
import json
import os
import random
import signal
import socket
import subprocess
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from itertools import count
from pathlib import Path
from typing import Any

from .project import Project
from .wait import WAIT_SECONDS, wait_until

START_SECONDS = WAIT_SECONDS

# Each worker of pytest has its own ports, in turn: two workers could find the same port free. A
# service's own tests use those from 20,000 on.
_PORTS = 1_250
_worker = int(os.environ.get("PYTEST_XDIST_WORKER", "gw0").removeprefix("gw")) % 8
_used = count(random.randrange(_PORTS))


def free_port() -> int:
    """Return a free TCP port of 127.0.0.1, another one on each call.

    Outside the ephemeral range, from which the kernel could assign it before it is used.
    """
    while True:
        port = 10_000 + _worker * _PORTS + next(_used) % _PORTS
        with socket.socket() as free, suppress(OSError):
            free.bind(("127.0.0.1", port))
            return port


def start_command(
    project: Project, application: str, port: int
) -> tuple[list[str], dict[str, str]]:
    """Return the command and environment of the server, from the project's own tests."""
    spec = importlib.util.spec_from_file_location("start", project.path / "tests/serving/start.py")
    assert spec
    assert spec.loader
    start = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(start)
    command, environment = start.start_command(application, port)
    return [project.program(command[0]), *command[1:]], environment


@dataclass(frozen=True)
class HttpResponse:
    """A response: status, headers by lower-case name, and the body as transferred."""

    status: int
    headers: dict[str, str]
    body: bytes


@dataclass
class Server:
    """A running server."""

    process: subprocess.Popen[bytes]
    port: int
    log_file: Path
    metrics_port: int = 0

    @property
    def log(self) -> str:
        return self.log_file.read_text(errors="replace")

    @property
    def events(self) -> list[dict[str, Any]]:
        """Its log lines as JSON. Raises `ValueError` for a line that is not JSON."""
        whole, _, _ = self.log.rpartition("\n")  # the last line may be incomplete
        return [json.loads(line) for line in whole.splitlines()]

    @property
    def requests(self) -> list[dict[str, Any]]:
        """The lines of its requests."""
        return [event for event in self.events if event["event"] == "request"]

    def get(self, path: str, **headers: str) -> HttpResponse:
        """Send a GET request on a new connection. Raises `OSError` if there is no response."""
        return self.request("GET", path, **headers)

    def request(self, method: str, path: str, body: Any = None, **headers: str) -> HttpResponse:
        """Like `get`, with any method; an iterable body is sent in chunks."""
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=60)
        try:
            connection.request(method, path, body, headers)
            response = connection.getresponse()
            named = {name.lower(): value for name, value in response.getheaders()}
            return HttpResponse(response.status, named, response.read())
        finally:
            connection.close()

    def wait_until_ready(self, path: str = "/health/ready") -> None:
        """Wait until `path` returns 200.

        Raises `AssertionError` with its log if it exits or after a timeout.
        """
        deadline = time.monotonic() + START_SECONDS
        while time.monotonic() < deadline and self.process.poll() is None:
            try:
                if self.get(path).status == 200:
                    return
            except (OSError, http.client.HTTPException):
                time.sleep(0.02)
        raise AssertionError(f"not ready:\n{self.log}")

    def wait_for_log(self, text: str) -> None:
        """Wait until its log contains `text`. Raises `AssertionError` after a timeout."""
        wait_until(lambda: text in self.log, f"{text!r} in the log", lambda: self.log)

    def stop(self, sign: signal.Signals = signal.SIGTERM, timeout: float = 120) -> int:
        """Send a signal to its first process and return the exit code."""
        self.process.send_signal(sign)
        return self.process.wait(timeout)


@contextmanager
def launch(
    project: Project,
    command: list[str],
    log_file: Path,
    port: int,
    env: Mapping[str, str] | None = None,
) -> Iterator[Server]:
    """Run a command as a server for the block; remaining processes are killed."""
    with log_file.open("wb") as log:
        process = subprocess.Popen(
            command,
            cwd=project.path,
            env=project.variables(env),
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
    try:
        yield Server(process, port, log_file)
    finally:
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()


@contextmanager
def serve(
    project: Project,
    log_file: Path,
    application: str | None = None,
    env: Mapping[str, str] | None = None,
) -> Iterator[Server]:
    """Start the project's production server on a free port and wait until it is ready."""
    port = free_port()
    command, options = start_command(project, application or f"{project.package}.app:app", port)
    variables = {"ENVIRONMENT": "production", **options, **(env or {})}
    with launch(project, command, log_file, port, variables) as server:
        server.wait_until_ready()
        yield server
