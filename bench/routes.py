"""The cost of the serving layer for other requests than small JSON: threads, WebSockets, streams.

    nice -n -15 .venv/bin/python -m bench.routes [ROUNDS [SECONDS]]

Bare FastAPI and the complete service have the same routes in the same order and run throughout, on
one core; the clients, on another, load one after the other, round by round. Five figures of each:
requests per second of a `def` route that waits for 100 and for 10 ms, messages per second of a
WebSocket echo, the first byte of a compressible stream, and the health check while `def` routes
compute. Medians over the rounds; the p99 of the health check is of all rounds together, since each
has few of them.
"""

import http.client
import os
import statistics
import subprocess
import time
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from socket import MSG_WAITALL, socket
from tempfile import TemporaryDirectory

from tests.harness.server import Server

from . import meter
from .plot import Bar, Chart, Panel
from .probes import GZIP, Memory, Waits, rendered, under_load
from .results import Figures, Table, show, versions
from .serving import complete, started
from .workers import HANDSHAKE, connected, request

FULL, QUICK = (5, 3), (1, 1)

CLIENTS = 50
WEBSOCKETS = 16
PROBE_EVERY_SECONDS = 0.05

BARE = """
from fastapi import APIRouter, FastAPI

app = FastAPI()

@app.get("/health/live")
async def live() -> dict[str, str]:
    return {"status": "live"}

app.add_api_route("/health/ready", lambda: None)
example = APIRouter()
example.add_api_route("/large-response", lambda: None)
app.include_router(example)
"""
ROUTES = """
import asyncio
import json
import time

from fastapi import WebSocket
from fastapi.responses import StreamingResponse

MEGABYTE = [{"id": number, "state": "paid", "total": 12.5} for number in range(23_000)]

@app.get("/wait")
def wait(milliseconds: int) -> int:
    time.sleep(milliseconds / 1000)
    return 1

@app.get("/compute")
def compute() -> int:
    return len(json.dumps(MEGABYTE))

@app.get("/stream")
async def stream() -> StreamingResponse:
    async def lines():
        yield b'{"line": 1}\\n'
        await asyncio.sleep(0.005)
        yield b'{"line": 2}\\n'
    return StreamingResponse(lines(), media_type="application/x-ndjson")

@app.websocket("/echo")
async def echo(socket: WebSocket) -> None:
    await socket.accept()
    async for message in socket.iter_text():
        await socket.send_text(message)
"""


def main() -> None:
    show(measure, tables, FULL)


def measure(rounds: int, seconds: int) -> Figures:
    """Return the figures of each case, for the bare application and the complete service."""
    one, other = meter.cores()
    everywhere = os.sched_getaffinity(0)
    with TemporaryDirectory(dir=meter.memory_directory()) as directory, ExitStack() as stack:
        project = rendered(Path(directory))
        project.uv("sync", "--quiet", "--no-dev")
        codes = {"bare": BARE + ROUTES, "complete": complete(project.package) + ROUTES}
        servers = {
            name: stack.enter_context(started(project, name, code, {}, one))
            for name, code in codes.items()
        }
        for server in servers.values():
            server.wait_until_ready()
        stack.callback(os.sched_setaffinity, 0, everywhere)
        os.sched_setaffinity(0, {other})
        for case in CASES:
            for server in servers.values():
                case.measure(server, 1)  # warm up
        samples: dict[tuple[str, str], list[float]] = {}
        for number in range(1, rounds + 1):
            meter.say(f"  round {number} of {rounds}: {len(CASES)} cases, {seconds} s each, twice")
            in_order = list(servers.items())[:: 1 if number % 2 else -1]  # in alternating order
            for case in CASES:
                for name, server in in_order:
                    seen = case.measure(server, seconds)
                    samples.setdefault((case.name, name), []).extend(seen)
        rows = [
            {"name": case.name, "unit": case.unit}
            | {name: round(case.of_all(samples[case.name, name]), 2) for name in servers}
            for case in CASES
        ]
        return {
            "rounds": rounds,
            "seconds": seconds,
            "versions": versions(project),
            "rows": rows,
        }


def tables(figures: Figures) -> dict[str, Table]:
    """Return the table: both servers, and the complete one relative to the bare one."""
    rows = [
        (
            f"{row['name']}, {row['unit']}",
            f"{row['bare']:,}",
            f"{row['complete']:,}",
            f"x {row['complete'] / row['bare']:.2f}",
        )
        for row in figures["rows"]
    ]
    return {"routes": [("", "bare", "complete", "of bare"), *rows]}


def charts(figures: Figures) -> dict[str, Chart]:
    """Return a panel for each case."""
    panels = [
        Panel(
            f"{row['name']}, {row['unit']}",
            [
                Bar(name, row[name], f"{row[name]:,}", kind)
                for name, kind in {"bare": "other", "complete": "ours"}.items()
            ],
        )
        for row in figures["rows"]
    ]
    return {
        "routes": Chart(
            "Cost of the serving layer for threads, WebSockets and streams",
            "Bare FastAPI and the complete service on one core: a def route that waits, a WebSocket"
            " echo, the first byte of a stream, the health check while def routes compute",
            panels,
        )
    }


def waiting(milliseconds: int, server: Server, seconds: float) -> list[float]:
    """Return the requests per second of a `def` route that sleeps."""
    path = f"/wait?milliseconds={milliseconds}"
    command = meter.wrk_command(server, path, seconds, clients=CLIENTS)
    result = subprocess.run(command, check=True, capture_output=True, text=True)
    return [meter.read(result.stdout).per_second]


def echoed(server: Server, seconds: float) -> list[float]:
    """Messages per second that a server echoes; all clients send, then all receive."""
    sent, response = b"\x81\x85\0\0\0\0hello", b"\x81\x05hello"  # a text frame, masked with zeros
    with ExitStack() as stack:
        clients = [stack.enter_context(websocket(server)) for _ in range(WEBSOCKETS)]
        begun, messages = time.perf_counter(), 0
        while time.perf_counter() < begun + seconds:
            for client in clients:
                client.sendall(sent)
            for client in clients:
                assert client.recv(len(response), MSG_WAITALL) == response
            messages += len(clients)
        return [messages / (time.perf_counter() - begun)]


def websocket(server: Server) -> socket:
    """Return an open WebSocket."""
    client = connected(server)
    client.sendall(request("/echo", HANDSHAKE))
    head = b""
    while not head.endswith(b"\r\n\r\n"):
        head += client.recv(1)
    assert b" 101 " in head, head
    return client


def first_byte(server: Server, seconds: float) -> list[float]:
    """Return the median of the milliseconds from a request to the first byte of its stream."""
    name, value = GZIP.split(": ")
    waits = []
    connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=10)
    end = time.perf_counter() + seconds
    while time.perf_counter() < end:
        begun = time.perf_counter()
        connection.request("GET", "/stream", headers={name: value})
        response = connection.getresponse()
        assert response.read(1)
        waits.append((time.perf_counter() - begun) * 1000)
        assert response.status == 200
        response.read()
    connection.close()
    return [statistics.median(waits)]


def health_check(server: Server, seconds: float) -> list[float]:
    """Return the milliseconds of each health check while all threads turn a megabyte into JSON."""
    probe = Waits("/health/live")
    report = under_load(
        server, "/compute", CLIENTS, seconds, [probe], Memory(), every=PROBE_EVERY_SECONDS
    )
    assert "Non-2xx" not in report, report  # a short run may have no response
    server.get("/compute")  # wait for the requests that wrk has left
    return probe.milliseconds


def p99(samples: list[float]) -> float:
    """Return the 99th percentile."""
    return sorted(samples)[int(len(samples) * 0.99)]


@dataclass(frozen=True)
class Case:
    """A measurement, and the aggregate of its samples."""

    name: str
    unit: str
    measure: Callable[[Server, float], list[float]]
    of_all: Callable[[list[float]], float] = statistics.median


CASES = (
    *(
        Case(
            f"a def route of {milliseconds} ms, {CLIENTS} clients",
            "requests per second",
            partial(waiting, milliseconds),
        )
        for milliseconds in (100, 10)
    ),
    Case("a WebSocket echo", "messages per second", echoed),
    Case("the first byte of a stream", "ms", first_byte),
    Case("health while def routes compute", "p99, ms", health_check, p99),
)


if __name__ == "__main__":
    main()
