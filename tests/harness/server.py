"""A rendered project under its real server, started as its image or its unit starts it."""

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
from pathlib import Path
from typing import Any

from .project import Project

START_SECONDS = 30


def free_port() -> int:
    """Return a free TCP port of 127.0.0.1.

    From below those that the kernel gives away, which would be another's before it is used.
    """
    while True:
        port = random.randrange(20_000, 32_000)
        with socket.socket() as free, suppress(OSError):
            free.bind(("127.0.0.1", port))
            return port


def start_command(
    project: Project, application: str, port: int
) -> tuple[list[str], dict[str, str]]:
    """Return the command and the environment, from the project's own tests."""
    spec = importlib.util.spec_from_file_location("start", project.path / "tests/serving/start.py")
    assert spec
    assert spec.loader
    start = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(start)
    command, environment = start.start_command(application, port)
    return [project.program(command[0]), *command[1:]], environment


@dataclass(frozen=True)
class Answer:
    """A response: its status, its headers by lower-case name, and its body as it was sent."""

    status: int
    headers: dict[str, str]
    body: bytes


@dataclass
class Server:
    """A started server."""

    process: subprocess.Popen[bytes]
    port: int
    log_file: Path
    metrics_port: int = 0

    @property
    def log(self) -> str:
        return self.log_file.read_text(errors="replace")

    @property
    def events(self) -> list[dict[str, Any]]:
        """Its log in production; raises `ValueError` for a line that is not JSON."""
        whole, _, _ = self.log.rpartition("\n")  # the last may still be on its way
        return [json.loads(line) for line in whole.splitlines()]

    @property
    def requests(self) -> list[dict[str, Any]]:
        """The lines of its requests."""
        return [event for event in self.events if event["event"] == "request"]

    def get(self, path: str, **headers: str) -> Answer:
        """GET, over a connection of its own; raises `OSError` when it doesn't answer."""
        return self.ask("GET", path, **headers)

    def ask(self, method: str, path: str, body: Any = None, **headers: str) -> Answer:
        """As `get`; a body that is an iterable of bytes is sent in chunks."""
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=10)
        try:
            connection.request(method, path, body, headers)
            response = connection.getresponse()
            named = {name.lower(): value for name, value in response.getheaders()}
            return Answer(response.status, named, response.read())
        finally:
            connection.close()

    def wait_until_ready(self, path: str = "/health/ready") -> None:
        """Return once that path is answered with 200.

        Raises `AssertionError` with its log when it ends instead, or takes too long.
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
        """Return once its log holds `text`; raises `AssertionError` when it never does."""
        deadline = time.monotonic() + START_SECONDS
        while text not in self.log:
            if time.monotonic() > deadline:
                raise AssertionError(f"never said {text!r}:\n{self.log}")
            time.sleep(0.02)

    def stop(self, sign: signal.Signals = signal.SIGTERM, timeout: float = 60) -> int:
        """Signal its first process and return the exit code."""
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
