"""The gunicorn worker: a killed master, SIGQUIT, TLS."""

import os
import signal
import socket
import ssl
import subprocess
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import pytest
from websockets.exceptions import ConnectionClosed
from websockets.sync.client import connect

from ..harness.project import Project
from ..harness.server import START_SECONDS, Server, free_port, launch
from ..harness.wait import wait_until
from ..harness.wire import HOST, Wire
from .test_metrics import workers

APPLICATION = """
import asyncio
import signal
import threading
from collections.abc import AsyncIterator

from fastapi import WebSocket
from fastapi.responses import StreamingResponse

from {package}.app import create_app

app = create_app()


@app.get("/held")
async def held() -> str:
    released = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGUSR2, released.set)
    print("begun", flush=True)
    await released.wait()
    return "held"


@app.get("/endless")
async def endless() -> StreamingResponse:
    async def stream() -> AsyncIterator[bytes]:
        print("begun", flush=True)
        yield b"begun"
        await asyncio.Event().wait()

    return StreamingResponse(stream())


@app.get("/thread")
def thread() -> None:
    print("begun", flush=True)
    threading.Event().wait()


@app.get("/uncancelled")
async def uncancelled() -> None:
    print("begun", flush=True)
    while True:
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            pass


@app.get("/blocking")
async def blocking() -> None:
    print("begun", flush=True)
    threading.Event().wait()


@app.websocket("/socket")
async def socket(socket: WebSocket) -> None:
    await socket.accept()
    async for _ in socket.iter_text():
        pass
"""

# Longer than a test, so that waiting for the budget fails it.
CONFIGURATION = """
exec(open("deploy/vm/gunicorn.conf.py").read())
graceful_timeout = 3600
timeout = 3600
"""

pytestmark = pytest.mark.parametrize("target", ["vm"], indirect=True, scope="session")


@contextmanager
def served(
    project: Project,
    directory: Path,
    configuration: str = CONFIGURATION,
    workers: int = 1,
    application: str = APPLICATION,
    env: Mapping[str, str] | None = None,
) -> Iterator[Server]:
    """Yield gunicorn with an application, by default the one above, ready or exited."""
    (directory / "ending.py").write_text(application.format(package=project.package))
    (directory / "gunicorn.conf.py").write_text(configuration)
    port = free_port()
    variables = {
        "BIND": f"127.0.0.1:{port}",
        "ENVIRONMENT": "production",
        "METRICS_PORT": "0",
        "PYTHONPATH": str(directory),
        "WEB_CONCURRENCY": str(workers),
        **(env or {}),
    }
    command = [project.program("gunicorn"), "--config", f"{directory}/gunicorn.conf.py"]
    with launch(project, [*command, "ending:app"], directory / "log", port, variables) as server:
        wait_until(lambda: has_started(server) or server.process.poll() is not None, "started")
        yield server


def has_started(server: Server) -> bool:
    return "Application startup complete" in server.log


def lives(pid: int) -> bool:
    """Return whether a process runs; a zombie has a directory in /proc, but no program."""
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes() != b""
    except OSError:
        return False


# ── Its end ───────────────────────────────────────────────────────────────────────────────────


def test_workers_of_a_killed_master_finish_their_requests_and_exit(
    project: Project, tmp_path: Path
) -> None:
    with served(project, tmp_path) as server, Wire(server) as client:
        (worker,) = workers(server)
        client.send(b"GET /held HTTP/1.1\r\n", HOST, b"\r\n")
        server.wait_for_log("begun")
        with connect(f"ws://127.0.0.1:{server.port}/socket") as room:
            server.process.kill()
            server.process.wait()
            with pytest.raises(ConnectionClosed) as closed:
                room.recv(60)
        os.kill(worker, signal.SIGUSR2)

        assert client.response().body == b'"held"'
        wait_until(lambda: not lives(worker), "ended")
        assert "Application shutdown complete" in server.log
        assert closed.value.rcvd
        assert closed.value.rcvd.code == 1012
        assert "Bad file descriptor" not in server.log, "a socket was closed twice"


@pytest.mark.parametrize("path", ["/endless", "/thread", "/uncancelled", "/blocking"])
@pytest.mark.parametrize("number", [signal.SIGQUIT, signal.SIGINT])
def test_sigquit_of_the_master_exits_at_once(
    project: Project, tmp_path: Path, path: str, number: signal.Signals
) -> None:
    """With requests that never end, in coroutine and thread; gunicorn would wait for an hour."""
    with served(project, tmp_path) as server, Wire(server) as client:
        client.send(f"GET {path} HTTP/1.1\r\n".encode(), HOST, b"\r\n")
        server.wait_for_log("begun")
        (worker,) = workers(server)

        assert server.stop(number) == 0
        assert not lives(worker)


# ── A start that fails ────────────────────────────────────────────────────────────────────────

DEPENDENT = """
import os
from contextlib import asynccontextmanager

from {package}.app import create_app
from {package}.serving.process import worker

app = create_app()
service_lifespan = app.router.lifespan_context


@asynccontextmanager
async def lifespan(app):
    if os.path.exists(os.environ["AWAY"]):
        raise ConnectionRefusedError("the cache is away")
    async with service_lifespan(app) as state:
        yield state


app.router.lifespan_context = lifespan


@app.get("/has-started")
async def has_started() -> int:
    return worker._has_started[0]
"""


def test_worker_that_does_not_start_leaves_the_others_and_is_replaced_later(
    project: Project, tmp_path: Path
) -> None:
    away = tmp_path / "away"
    env = {"AWAY": str(away)}
    with served(project, tmp_path, workers=2, application=DEPENDENT, env=env) as server:
        wait_until(lambda: server.log.count("Application startup complete") == 2, "both")
        other, victim = workers(server)
        wait_until(lambda: server.get("/has-started").body == b"1", "known to the others")
        away.touch()
        os.kill(victim, signal.SIGKILL)
        server.wait_for_log("A worker did not start: the next attempt is in 2 s")

        assert lives(other)
        assert server.get("/health/ready").status == 200
        away.unlink()
        wait_until(lambda: server.log.count("Application startup complete") == 3, "replaced")
        assert lives(other)
        assert server.process.poll() is None


def test_first_start_that_fails_stops_gunicorn(project: Project, tmp_path: Path) -> None:
    away = tmp_path / "away"
    away.touch()
    env = {"AWAY": str(away)}
    with served(project, tmp_path, workers=2, application=DEPENDENT, env=env) as server:
        assert server.process.wait(START_SECONDS) == 3

    assert "the cache is away" in server.log


# ── TLS ───────────────────────────────────────────────────────────────────────────────────────

WITH_TLS = f"""
{CONFIGURATION}
certfile = {{certificate!r}}
keyfile = {{key!r}}
"""


@pytest.fixture(scope="module")
def pem(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """The files of a self-signed certificate for localhost."""
    directory = tmp_path_factory.mktemp("tls")
    pem = {"certificate": str(directory / "cert.pem"), "key": str(directory / "key.pem")}
    request = ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "1"]
    request += ["-subj", "/CN=localhost", "-addext", "subjectAltName=DNS:localhost"]
    request += ["-keyout", pem["key"], "-out", pem["certificate"]]
    subprocess.run(request, check=True, capture_output=True)
    return pem


def protocol(server: Server, context: ssl.SSLContext) -> str | None:
    """Return the TLS version of a request with status 200."""
    with (
        socket.create_connection(("127.0.0.1", server.port), timeout=30) as plain,
        context.wrap_socket(plain, server_hostname="localhost") as client,
    ):
        client.sendall(b"GET /health/live HTTP/1.1\r\n" + HOST + b"Connection: close\r\n\r\n")
        assert client.makefile("rb").readline() == b"HTTP/1.1 200 OK\r\n"
        return client.version()


def test_tls_settings_of_gunicorn_apply(
    project: Project, tmp_path: Path, pem: dict[str, str]
) -> None:
    """Certificate, client certificate, and the hook `ssl_context`."""
    configuration = f"""
{WITH_TLS.format(**pem)}
import ssl
cert_reqs = ssl.CERT_REQUIRED
ca_certs = certfile


def ssl_context(_, default):
    context = default()
    context.maximum_version = ssl.TLSVersion.TLSv1_2
    return context
"""
    trusting = ssl.create_default_context(cafile=pem["certificate"])
    known = ssl.create_default_context(cafile=pem["certificate"])
    known.load_cert_chain(pem["certificate"], pem["key"])

    with served(project, tmp_path, configuration) as server:
        assert protocol(server, known) == "TLSv1.2"
        with pytest.raises(ssl.SSLError):
            protocol(server, trusting)


def test_mismatched_tls_key_stops_the_start_with_one_line(
    project: Project, tmp_path: Path, pem: dict[str, str]
) -> None:
    key = tmp_path / "key.pem"
    subprocess.run(["openssl", "genrsa", "-out", key], check=True, capture_output=True)
    configuration = WITH_TLS.format(certificate=pem["certificate"], key=str(key))

    with served(project, tmp_path, configuration, workers=2) as server:
        assert server.process.wait(START_SECONDS) == 3

    errors = [event for event in server.events if event["event"].startswith("TLS does not start")]
    assert f"keyfile={key}, certfile={pem['certificate']}: " in errors[0]["event"]
    assert "Traceback" not in server.log
