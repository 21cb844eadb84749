"""Each target under its real server: start, requests, shutdown."""

import asyncio
import json
import re
import shutil
import signal
import socket
import subprocess
from contextlib import AbstractContextManager
from dataclasses import replace
from pathlib import Path

import pytest
from websockets.exceptions import ConnectionClosed
from websockets.sync.client import connect

from ..conftest import Render
from ..harness.load import Load, Tally
from ..harness.project import Project
from ..harness.server import START_SECONDS, Server, free_port, launch, serve, start_command
from ..harness.wait import wait_until
from ..harness.wire import HOST, Wire

# Drains with more time for this load, whose clients may wait long for the CPU.
PATIENT = """
from {package}.app import create_app
from {package}.serving.lifecycle import drain

drain.CLOSE_SECONDS, drain.SETTLE_SECONDS, drain.QUIET_SECONDS = 2.0, 10.0, 5.0
app = create_app()
"""

# Additional routes and hooks, to observe a shutdown from outside.
WATCHED = """
import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from fastapi.responses import StreamingResponse

from {package}.app import create_app

app = create_app()
service_lifespan = app.router.lifespan_context


@asynccontextmanager
async def lifespan(app):
    async with service_lifespan(app) as state:
        yield state
    print("the lifespan has ended", flush=True)


app.router.lifespan_context = lifespan


@app.get("/endless")
async def endless() -> StreamingResponse:
    async def stream() -> AsyncIterator[bytes]:
        print("an endless request has begun", flush=True)
        yield b"begun"
        await asyncio.Event().wait()

    return StreamingResponse(stream())  # the deadline does not apply to a started response
"""

# A route that responds when another is requested, and WebSockets that stay open.
HELD = """
import asyncio

from fastapi import WebSocket

from {package}.app import create_app

app = create_app()
released = asyncio.Event()


@app.get("/held")
async def held() -> str:
    print("a request is held", flush=True)
    await released.wait()
    return "held"


@app.get("/release")
async def release() -> str:
    released.set()
    return "released"


@app.websocket("/socket")
async def socket(socket: WebSocket) -> None:
    await socket.accept()
    async for _ in socket.iter_text():
        pass
"""

# A route that returns the thread settings of its process.
THREADED = """
import sys

from anyio.to_thread import current_default_thread_limiter

from {package}.app import create_app

app = create_app()


@app.get("/threads")
async def threads() -> tuple[float, float]:
    return current_default_thread_limiter().total_tokens, sys.getswitchinterval()
"""


only_in_pods = pytest.mark.parametrize("target", ["kubernetes"], indirect=True)


@pytest.fixture(scope="module")
def hurried(render: Render, target: str) -> Project:
    """The service with a budget of one second, a route that never ends, and a lifespan that says
    when it has."""
    project = render(deployment=target, request_timeout_seconds=1)
    project.uv("sync", "--quiet")
    (project.path / "watched.py").write_text(WATCHED.format(package=project.package))
    return project


def start_badly(
    project: Project, log: Path, replace: dict[str, str], env: dict[str, str]
) -> tuple[int, str]:
    """Start the production server with other options; return its exit code and log."""
    port = free_port()
    command, options = start_command(project, f"{project.package}.app:app", port)
    command = [replace.get(word, word) for word in command]
    variables = {"ENVIRONMENT": "production", **options, **env}
    with launch(project, command, log, port, variables) as server:
        return server.process.wait(START_SECONDS), server.log


def gunicorn_with(project: Project, directory: Path, **config: str) -> dict[str, str]:
    """Return the rendered gunicorn configuration with another loop or parser in the worker."""
    file = directory / "gunicorn.conf.py"
    file.write_text(
        f"exec(open('deploy/vm/gunicorn.conf.py').read())\n"
        f"from {project.package}.serving.process.worker import ServingWorker\n"
        f"class OtherWorker(ServingWorker):\n"
        f"    def _config(self):\n"
        f"        config = super()._config()\n"
        f"        vars(config).update({config!r})\n"
        f"        return config\n"
        f"worker_class = OtherWorker\n"
    )
    return {"deploy/vm/gunicorn.conf.py": str(file)}


@pytest.mark.parametrize(
    ("option", "wanted", "other"), [("loop", "uvloop", "asyncio"), ("http", "httptools", "h11")]
)
def test_production_does_not_start_on_another_loop_or_parser(
    project: Project, target: str, tmp_path: Path, option: str, wanted: str, other: str
) -> None:
    if target == "kubernetes":
        replace = {wanted: other}
    else:
        replace = gunicorn_with(project, tmp_path, **{option: other})

    code, log = start_badly(project, tmp_path / "log", replace, {})

    assert code == 3
    assert re.search(
        rf"ENVIRONMENT=production needs uvloop and httptools, runs on .*{other}.*: "
        "start uvicorn with --loop uvloop --http httptools",
        log,
    )
    assert "Traceback" not in log


@only_in_pods
def test_host_of_the_image_is_ipv4_and_ipv6(project: Project, tmp_path: Path) -> None:
    port = free_port()
    command, options = start_command(project, f"{project.package}.app:app", port)
    match = re.search(r'"--host", "(.*?)"', (project.path / "Dockerfile").read_text())
    assert match
    command[command.index("--host") + 1] = match[1]

    with launch(project, command, tmp_path / "log", port, options) as server:
        server.wait_until_ready()
        socket.create_connection(("::1", port)).close()


def test_development_starts_on_another_loop_with_a_warning(
    project: Project, tmp_path: Path
) -> None:
    port = free_port()
    command = [project.program("uvicorn"), f"{project.package}.app:app", "--port", str(port)]

    with launch(project, [*command, "--loop", "asyncio"], tmp_path / "log", port) as server:
        server.wait_until_ready()

        assert re.search("WARNING.*development: needs uvloop and httptools", server.log)


def test_wrong_setting_prints_one_line_and_no_worker_is_respawned(
    project: Project, tmp_path: Path
) -> None:
    code, log = start_badly(project, tmp_path / "log", {}, {"ENVIRONMENT": "prod"})

    assert code == 3
    assert log.count("ENVIRONMENT") == 1
    assert "ENVIRONMENT: Input should be 'development', 'staging' or 'production'" in log
    assert "Traceback" not in log


def test_middleware_that_cannot_be_created_stops_the_start(
    project: Project, tmp_path: Path
) -> None:
    """Otherwise uvicorn would serve without a lifespan."""
    (tmp_path / "broken.py").write_text(
        f"from {project.package}.app import create_app\n"
        "class Broken:\n"
        "    def __init__(self, app):\n"
        "        raise RuntimeError('no key for the middleware')\n"
        "app = create_app()\n"
        "app.add_middleware(Broken)\n"
    )
    replace = {f"{project.package}.app:app": "broken:app"}

    code, log = start_badly(project, tmp_path / "log", replace, {"PYTHONPATH": str(tmp_path)})

    assert code == 3
    assert "no key for the middleware" in log


def test_check_command_prints_one_line_per_error(project: Project) -> None:
    check = (project.program("python"), "-m", f"{project.package}.serving")
    production = {"ENVIRONMENT": "production"}

    output = project.run(*check, env=production).stdout.splitlines()
    assert {"ENVIRONMENT=production", "METRICS_PORT=9090"} <= set(output)
    assert project.run(*check, "--quiet", env=production).stdout == ""

    wrong = {"WEB_CONCURRENCY": "junk", "FORWARDED_ALLOW_IPS": "10.0.0.1/8"}
    result = project.run(*check, "--quiet", env={**production, **wrong}, check=False)
    assert result.returncode == 3
    assert [line.split(":")[0] for line in result.stdout.splitlines()] == list(wrong)


def test_check_command_reads_the_settings_of_the_service(
    render: Render, target: str, tmp_path: Path
) -> None:
    """Without valid settings it prints one line, or uses those of the serving layer."""
    project = render(deployment=target)
    shutil.copytree(project.path / "src", tmp_path / "src")
    settings = tmp_path / "src" / project.package / "settings.py"
    command = ("python", "-m", f"{project.package}.serving")
    project.uv("sync", "--quiet")

    def check() -> tuple[int, str]:
        run = (project.program(command[0]), *command[1:])
        result = project.run(*run, env={"PYTHONPATH": str(tmp_path / "src")}, check=False)
        return result.returncode, result.stdout

    settings.write_text(settings.read_text() + "    orders_token: str\n")
    assert check() == (3, "ORDERS_TOKEN: Field required\n")

    settings.write_text("import nothing_such\n")
    assert check() == (
        3,
        f"{project.package}.settings can't be imported: "
        "ModuleNotFoundError: No module named 'nothing_such'\n",
    )

    settings.unlink()
    assert check()[0] == 0


@pytest.mark.parametrize(("env", "threads"), [({}, 40), ({"THREADS": "3"}, 3)])
def test_cpu_bound_threads_do_not_block_health_checks(
    project: Project, tmp_path: Path, env: dict[str, str], threads: int
) -> None:
    """With few threads and a short switch interval; otherwise health checks would wait."""
    (tmp_path / "threaded.py").write_text(THREADED.format(package=project.package))
    env = {**env, "PYTHONPATH": str(tmp_path)}

    with serve(project, tmp_path / "log", "threaded:app", env) as server:
        assert json.loads(server.get("/threads").body) == [threads, 0.001]


def test_large_response_has_the_requested_coding(project: Project, tmp_path: Path) -> None:
    with serve(project, tmp_path / "log") as server:
        plain = server.get("/large-response?size_kb=900")
        packed = server.get("/large-response?size_kb=900", **{"Accept-Encoding": "gzip"})
        junk = server.get("/large-response?size_kb=junk")

    assert 900 * 1024 <= len(plain.body) < 901 * 1024
    assert "content-encoding" not in plain.headers
    assert packed.headers["content-encoding"] == "gzip"
    assert len(packed.body) < len(plain.body) / 4
    assert junk.status == 422
    assert junk.headers["content-type"] == "application/problem+json"
    assert "server" not in plain.headers


def test_metrics_port_sums_all_workers_exactly(project: Project, tmp_path: Path) -> None:
    port = free_port()
    env = {"WEB_CONCURRENCY": "4" if "vm" in project.answers["deployment"] else "1"}
    with serve(project, tmp_path / "log", env={**env, "METRICS_PORT": str(port)}) as server:
        for _ in range(40):
            assert server.get("/large-response?size_kb=1").status == 200
        metrics = replace(server, port=port)

        labels = r'\{method="GET",route="/large-response",status="200"\}'

        def counted() -> float:
            text = metrics.get("/metrics").body.decode()
            return sum(map(float, re.findall(f"_duration_seconds_count{labels} (.*)", text)))

        wait_until(lambda: counted() >= 40, "counted")  # after the response
        assert {counted() for _ in range(5)} == {40}, "any worker may respond"
        assert server.get("/metrics").status == 404
        assert metrics.get("/health/live").status == 404


def test_metrics_port_in_use_stops_the_start_with_one_line(
    project: Project, tmp_path: Path
) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        code, log = start_badly(project, tmp_path / "log", {}, {"METRICS_PORT": str(port)})

    assert code == 3
    assert f"METRICS_HOST=127.0.0.1, METRICS_PORT={port}: address already in use" in log
    assert "Traceback" not in log


@pytest.mark.parametrize("path", ["/health/live", "/large-response?size_kb=4"])
def test_serves_under_load_without_an_error(project: Project, tmp_path: Path, path: str) -> None:
    if shutil.which("wrk") is None:
        pytest.skip(reason="wrk is not installed")
    with serve(project, tmp_path / "log") as server:
        url = f"http://127.0.0.1:{server.port}{path}"
        report = subprocess.run(
            [
                "wrk",
                "--threads",
                "1",
                "--connections",
                "16",
                "--duration",
                "10s",
                "--timeout",
                "30s",
                url,
            ],
            check=True,
            capture_output=True,
            text=True,
        ).stdout

    answered = re.search(r"(\d+) requests in", report)
    assert answered
    assert int(answered[1]) > 1000, report
    assert "Socket errors" not in report, report
    assert "Non-2xx" not in report, report


@pytest.mark.parametrize("target", ["vm"], indirect=True)
def test_sigterm_under_load_loses_no_request(project: Project, target: str, tmp_path: Path) -> None:
    async def load_and_stop(server: Server) -> Load:
        load = Load(server.port, ["/health/live", "/large-response?size_kb=4"])
        await load.answered(2_000)
        await asyncio.to_thread(server.stop)
        await load.stop()
        return load

    with patient(project, tmp_path) as server:
        tally = asyncio.run(load_and_stop(server)).tally

        assert (tally.lost, tally.failed) == (0, 0), tally
        assert tally.answered > 2_000
        assert tally.refused > 0, "the listener was closed"
        assert server.process.returncode == exit_after_sigterm(target)


@only_in_pods
def test_load_after_sigterm_is_served_until_it_ends(
    project: Project, target: str, tmp_path: Path
) -> None:
    async def stop_and_load(server: Server) -> Load:
        load = Load(server.port, ["/health/live", "/large-response?size_kb=4"])
        await load.answered(2_000)
        server.process.send_signal(signal.SIGTERM)
        await asyncio.to_thread(wait_until_told_to_leave, server)
        async with asyncio.timeout(60):
            await load.answered(load.tally.answered + 2_000)
        await load.stop()
        return load

    with patient(project, tmp_path) as server:
        tally = asyncio.run(stop_and_load(server)).tally

        assert tally == Tally(answered=tally.answered), "and nothing else"
        assert server.process.wait(60) == exit_after_sigterm(target)


@only_in_pods
def test_late_connections_are_served_while_a_request_is_in_flight(
    project: Project, target: str, tmp_path: Path
) -> None:
    (tmp_path / "held.py").write_text(HELD.format(package=project.package))
    env = {"PYTHONPATH": str(tmp_path)}
    with serve(project, tmp_path / "log", "held:app", env) as server, Wire(server) as early:
        url = f"ws://127.0.0.1:{server.port}/socket"
        early.send(b"GET /held HTTP/1.1\r\n", HOST, b"\r\n")
        server.wait_for_log("a request is held")
        with connect(url) as room:
            server.process.send_signal(signal.SIGTERM)
            with pytest.raises(ConnectionClosed) as ended:
                room.recv(30)
        with connect(url) as late_room, pytest.raises(ConnectionClosed) as late_ended:
            late_room.recv(30)
        late = server.get("/large-response?size_kb=900")
        released = server.get("/release")
        held = early.response()

        assert server.process.wait(60) == exit_after_sigterm(target)
        assert "Application shutdown complete" in server.log
        assert "Traceback" not in server.log

    for closed in (ended.value, late_ended.value):
        assert closed.rcvd
        assert closed.rcvd.code == 1012
    assert (late.status, late.headers["connection"]) == (200, "close")
    assert len(late.body) == int(late.headers["content-length"])
    assert (released.body, released.headers["connection"]) == (b'"released"', "close")
    assert (held.status, held.body) == (200, b'"held"')


@only_in_pods
def test_connections_without_a_request_do_not_hold_the_process(
    render: Render, target: str, tmp_path: Path
) -> None:
    """With a budget of an hour."""
    project = render(deployment=target, request_timeout_seconds=3600)
    project.uv("sync", "--quiet")
    with serve(project, tmp_path / "log") as server, Wire(server) as used, Wire(server):
        used.send(b"GET /health/live HTTP/1.1\r\n", HOST, b"\r\n")
        assert used.response().status == 200

        assert server.stop() == exit_after_sigterm(target)


def wait_until_told_to_leave(server: Server) -> None:
    """Wait until a response has `Connection: close`."""
    while server.get("/health/live").headers.get("connection") != "close":
        pass


def test_request_past_the_budget_does_not_prevent_the_end_of_the_lifespan(
    hurried: Project, target: str, tmp_path: Path
) -> None:
    with (
        serve(hurried, tmp_path / "log", "watched:app", {"WEB_CONCURRENCY": "1"}) as server,
        socket.create_connection(("127.0.0.1", server.port)) as client,
    ):
        client.sendall(b"GET /endless HTTP/1.1\r\nHost: localhost\r\n\r\n")
        server.wait_for_log("an endless request has begun")

        assert server.stop() == exit_after_sigterm(target)
        assert "timeout graceful shutdown exceeded" in server.log
        assert "the lifespan has ended" in server.log
        assert "Perhaps out of memory" not in server.log, "it was killed"


def patient(project: Project, directory: Path) -> AbstractContextManager[Server]:
    """Start the service with longer steps of the drain."""
    (directory / "patient.py").write_text(PATIENT.format(package=project.package))
    return serve(project, directory / "log", "patient:app", {"PYTHONPATH": str(directory)})


def exit_after_sigterm(target: str) -> int:
    """Return the exit status after SIGTERM: of uvicorn the signal (0 as PID 1), of gunicorn 0."""
    return -signal.SIGTERM if target == "kubernetes" else 0
