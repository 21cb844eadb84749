"""Comparison of gunicorn workers: CPU, shutdown, failed requests of a reload, number of workers.

    .venv/bin/python -m bench.workers [SECONDS [ROUNDS]]

Measures each worker class with an application without the serving layer, in one process on its own
core, with wrk on another; then, for the template's worker with the layer, its shutdown and the
failed requests; and the service with 1 to 4 workers, which share all cores with wrk.
"""

import asyncio
import signal
import socket
import statistics
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

from tests.harness.load import Load, Tally
from tests.harness.project import Project
from tests.harness.server import Server, free_port, launch

from . import meter
from .probes import rendered
from .results import arguments

APPLICATION = """
import asyncio
import os
from contextlib import asynccontextmanager

from fastapi import FastAPI, Request, WebSocket

from {package} import serving


@asynccontextmanager
async def lifespan(_):
    yield
    print("the lifespan has ended", flush=True)


app = FastAPI(lifespan=lifespan)
if "SERVING" in os.environ:
    serving.install(app, serving.ServingSettings())


@app.get("/small")
async def small() -> dict[str, int]:
    return {{"answer": 42}}


@app.get("/health/ready")
async def ready() -> None:
    pass


@app.get("/client")
async def client(request: Request) -> str:
    return request.client.host if request.client else "none"


@app.get("/endless")
async def endless() -> None:
    await asyncio.Event().wait()


@app.websocket("/socket")
async def echo(socket: WebSocket) -> None:
    await socket.accept()
    await socket.receive()
"""

CONFIGURATION = """
exec(open("deploy/vm/gunicorn.conf.py").read())
worker_class = {worker_class!r}
max_requests = {max_requests}
max_requests_jitter = max_requests // 10
accesslog = None
"""

CLASSES = {
    "ours": "{package}.serving.process.worker.ServingWorker",
    "uvicorn-worker": "uvicorn_worker.UvicornWorker",
    "native asgi": "asgi",
}
HANDSHAKE = (
    "Upgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Version: 13\r\n"
    "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n"
)
CLIENT = "198.51.100.7"


@dataclass(frozen=True)
class Bench:
    """A rendered service with a budget of one second, and its paths."""

    project: Project
    directory: Path

    @contextmanager
    def serve(
        self,
        name: str,
        *,
        workers: int = 1,
        max_requests: int = 0,
        layer: bool = False,
        core: int | None = None,
        bind: str = "",
    ) -> Iterator[Server]:
        """Yield a ready application under a worker class; with the serving layer if `layer`."""
        port = free_port()
        file = self.directory / f"{port}.conf.py"
        worker_class = CLASSES[name].format(package=self.project.package)
        file.write_text(CONFIGURATION.format(worker_class=worker_class, max_requests=max_requests))
        command = [self.project.program("gunicorn"), "--config", str(file), "watched:app"]
        if core is not None:
            command = ["taskset", "--cpu-list", str(core), *command]
        env = {"WEB_CONCURRENCY": str(workers), "BIND": bind or f"127.0.0.1:{port}"}
        env |= {"METRICS_PORT": "0", "FORWARDED_ALLOW_IPS": "*"}
        if layer and name == "ours":
            env["SERVING"] = "yes"
        with launch(self.project, command, self.directory / f"{port}.log", port, env) as server:
            if bind:
                meter.wait_until_listening(server, Path(bind.removeprefix("unix:")))
            else:
                server.wait_until_ready()
            yield server


def main() -> None:
    seconds, rounds = arguments((3, 5))
    with TemporaryDirectory() as directory:
        project = rendered(Path(directory), deployment="vm", request_timeout_seconds=1)
        project.uv("sync", "--quiet", "--no-dev")
        python = project.program("python")
        project.uv("pip", "install", "--quiet", "--python", python, "uvicorn-worker")
        (project.path / "watched.py").write_text(APPLICATION.format(package=project.package))
        bench = Bench(project, Path(directory))
        table(["CPU µs per request", *cpu(bench, seconds, rounds)])
        table(
            ["client behind the unix socket", *(forwarded(bench, name) for name in CLASSES)],
            ["a connection idle for 3 s", *(kept(bench, name) for name in CLASSES)],
            ["SIGTERM, a WebSocket open", *(ended(bench, name, "/socket") for name in CLASSES)],
            ["SIGTERM, an endless request", *(ended(bench, name, "/endless") for name in CLASSES)],
            ["5 HUP under load", *(asyncio.run(reloaded(bench, name)) for name in CLASSES)],
            ["recycled each 350 requests", *(asyncio.run(recycled(bench, n)) for n in CLASSES)],
            ["5 SIGTERM under load", *(asyncio.run(stopped(bench, name)) for name in CLASSES)],
        )
        print("\n| workers | requests per second | p99 |\n|---|---|---|")
        for workers, (rate, p99) in counts(bench, seconds, rounds).items():
            print(f"| {workers} | {rate:,.0f} | {p99:.1f} ms |")


def table(*rows: list[str]) -> None:
    """Return the table: a row per measure, a column per worker class."""
    print(f"\n| | {' | '.join(CLASSES)} |\n|---|{'---|' * len(CLASSES)}")
    for row in rows:
        print(f"| {' | '.join(row)} |", flush=True)


def cpu(bench: Bench, seconds: int, rounds: int) -> list[str]:
    """Return medians of interleaved rounds, and their ratio to the template's worker."""
    one, other = meter.cores()
    spent: dict[str, list[float]] = {name: [] for name in CLASSES}
    with ExitStack() as started:
        servers = {name: started.enter_context(bench.serve(name, core=one)) for name in CLASSES}
        for _ in range(rounds):
            for name, server in servers.items():
                before = meter.cpu_seconds(server)
                report = meter.wrk(server, "/small", seconds, other)
                used = meter.cpu_seconds(server) - before
                spent[name].append(used * 1e6 / report.answered)
    medians = {name: statistics.median(each) for name, each in spent.items()}
    return [f"{each:.0f} (x{each / medians['ours']:.2f})" for each in medians.values()]


def children(server: Server) -> list[int]:
    """Return the workers of a master."""
    master = server.process.pid
    found = Path(f"/proc/{master}/task/{master}/children").read_text()
    return [int(child) for child in found.split()]


def forwarded(bench: Bench, name: str) -> str:
    """Return the client address that the application sees behind nginx."""
    path = bench.directory / "unix.sock"
    with bench.serve(name, bind=f"unix:{path}"), socket.socket(socket.AF_UNIX) as nginx:
        nginx.settimeout(10)
        nginx.connect(str(path))
        header = f"X-Forwarded-For: {CLIENT}\r\nConnection: close\r\n"
        nginx.sendall(request("/client", header))
        response = b"".join(iter(lambda: nginx.recv(2**16), b""))
    return "the client" if CLIENT.encode() in response else response.rpartition(b"\n")[2].decode()


def kept(bench: Bench, name: str) -> str:
    """Return whether an idle connection outlasts gunicorn's own 2 s."""
    with bench.serve(name) as server, connected(server) as client:
        client.sendall(request("/small"))
        client.recv(2**16)
        client.settimeout(3)
        with suppress(TimeoutError):
            return "open" if client.recv(1) else "closed"
    return "open"


def ended(bench: Bench, name: str, path: str) -> str:
    """Return the seconds until a server with an open request exits, and if its lifespan ends."""
    with bench.serve(name, layer=True) as server, connected(server) as client:
        client.sendall(request(path, HANDSHAKE if path == "/socket" else ""))
        if path == "/socket":
            client.recv(2**16)
        else:
            time.sleep(0.5)  # there is no signal that the request has arrived
        started = time.monotonic()
        code = server.stop(signal.SIGTERM)
        waited = time.monotonic() - started
        lifespan = "ends" if "the lifespan has ended" in server.log else "never ends"
    return f"{waited:.0f} s, exit {code}, the lifespan {lifespan}"


async def reloaded(bench: Bench, name: str) -> str:
    """Return the failed requests of five reloads."""
    with bench.serve(name, workers=2, layer=True) as server:
        load = Load(server.port, ["/small"])
        for _ in range(5):
            before = set(children(server))
            await load.answered(load.tally.answered + 500)
            server.process.send_signal(signal.SIGHUP)
            await asyncio.to_thread(wait_until_gone, before, server)
        return told(await load.stop())


def wait_until_gone(workers: set[int], server: Server) -> None:
    while workers & set(children(server)):
        time.sleep(0.05)


async def recycled(bench: Bench, name: str) -> str:
    """Return the failed requests while workers are replaced continuously."""
    with bench.serve(name, workers=2, layer=True, max_requests=350) as server:
        load = Load(server.port, ["/small"], rate=400)
        await load.answered(6_000)
        return told(await load.stop())


async def stopped(bench: Bench, name: str) -> str:
    """Return the failed requests of five stops."""
    lost = answered = 0
    for _ in range(5):
        with bench.serve(name, workers=2, layer=True) as server:
            load = Load(server.port, ["/small"], rate=400)
            await load.answered(500)
            await asyncio.to_thread(server.stop)
            tally = await load.stop()
            lost, answered = lost + tally.lost + tally.failed, answered + tally.answered
    return f"{lost} of {answered:,} lost"


def told(tally: Tally) -> str:
    return f"{tally.lost + tally.failed + tally.refused} of {tally.answered:,} lost"


def counts(bench: Bench, seconds: int, rounds: int) -> dict[int, tuple[float, float]]:
    """Medians of interleaved rounds: requests per second, and the 99th percentile in ms."""
    seen: dict[int, list[tuple[float, float]]] = {}
    with ExitStack() as started:
        servers = {
            n: started.enter_context(bench.serve("ours", workers=n, layer=True))
            for n in range(1, 5)
        }
        for _ in range(rounds):
            for workers, server in servers.items():
                report = meter.wrk(server, "/small", seconds)
                seen.setdefault(workers, []).append((report.per_second, report.p99))
    medians = {
        n: [statistics.median(each) for each in zip(*s, strict=True)] for n, s in seen.items()
    }
    return {n: (rate, p99) for n, (rate, p99) in medians.items()}


def request(path: str, headers: str = "") -> bytes:
    return f"GET {path} HTTP/1.1\r\nHost: localhost\r\n{headers}\r\n".encode()


def connected(server: Server) -> socket.socket:
    return socket.create_connection(("127.0.0.1", server.port), timeout=10)


if __name__ == "__main__":
    main()
