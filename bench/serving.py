"""What the serving layer costs: server CPU a request and throughput of a small JSON route.

    nice -n -15 .venv/bin/python -m bench.serving [ROUNDS [SECONDS]]

Every row is a server that runs throughout, on one core; wrk, on another, loads one after the other,
round by round, so that what else the machine does hits all alike. Figures are medians over the
rounds, `x` is the CPU by that of the bare FastAPI: no serving layer, no access log, on uvloop and
httptools. The naive one has the loop and the parser of `pip install fastapi uvicorn`. The log goes
to a file in memory.
"""

import os
import re
import statistics
import subprocess
import sys
from contextlib import AbstractContextManager, ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from tempfile import TemporaryDirectory

from tests.harness.project import Project
from tests.harness.server import Server, free_port, launch, start_command

from .probes import rendered

TICKS = os.sysconf("SC_CLK_TCK")
PATH = "/orders/7"

ROUTE = """
from pydantic import BaseModel

class Order(BaseModel):
    id: int
    state: str
    total: float

@app.get("/orders/{id}")
async def order(id: int) -> Order:
    return Order(id=id, state="paid", total=12.5)
"""
# With as many routers and routes before it, which FastAPI asks one after the other.
BARE = """
from fastapi import APIRouter, FastAPI

app = FastAPI()
health, example = APIRouter(prefix="/health"), APIRouter()
health.add_api_route("/live", lambda: None)
health.add_api_route("/ready", lambda: None)
example.add_api_route("/large-response", lambda: None)
app.include_router(health)
app.include_router(example)
"""
# What is done to the serving layer before the service is put together.
WITHOUT = {
    "nothing": "",
    "the log": "serving.logs.Log.write = lambda *_: None",
    "metrics": "serving.metrics.DURATION.labels = lambda *_: SimpleNamespace(observe=int)",
    "security headers": "serving.headers.SECURITY.clear()",
    "timeouts": "d = serving.limits.Deadlines\nd.begin = d.end = lambda *_: None",
    "other limits": "x = serving.limits.Limits\nx.refusal = lambda *_: None\n"
    "x.bounded = lambda _, receive, *__: receive",
    "compression": "serving.requests.responder = lambda *_: None",
    "the pass": "serving.requests.install = lambda *_: None",
}


# The name of a server, its application, and what its command has instead.
Candidate = tuple[str, str, dict[str, str]]


@dataclass
class Row:
    """A server, and what it took for a request in each round."""

    name: str
    server: Server
    microseconds: list[float] = field(default_factory=list)
    per_second: list[float] = field(default_factory=list)

    def load(self, seconds: float) -> None:
        """A round."""
        url = f"http://127.0.0.1:{self.server.port}{PATH}"
        command = ["wrk", "--threads=1", "--connections=16", f"--duration={seconds:g}s", url]
        before = self._cpu_seconds()
        report = subprocess.run(command, check=True, capture_output=True, text=True).stdout
        used = self._cpu_seconds() - before
        assert "Non-2xx" not in report, report
        [answered] = re.findall(r"(\d+) requests in", report)
        [rate] = re.findall(r"Requests/sec: +([\d.]+)", report)
        self.microseconds.append(used / int(answered) * 1e6)
        self.per_second.append(float(rate))

    def _cpu_seconds(self) -> float:
        """Of the server's process, since its start."""
        stat = Path(f"/proc/{self.server.process.pid}/stat").read_text()
        user, system = stat.rpartition(")")[2].split()[11:13]
        return (int(user) + int(system)) / TICKS


def main() -> None:
    rounds, seconds = [*map(int, sys.argv[1:]), *(7, 3)[len(sys.argv) - 1 :]]
    one, *_, other = sorted(os.sched_getaffinity(0))
    memory = "/dev/shm" if os.path.isdir("/dev/shm") else None
    with TemporaryDirectory(dir=memory) as directory, ExitStack() as stack:
        project = rendered(Path(directory))
        project.uv("sync", "--quiet", "--no-dev")
        rows = [
            Row(name, stack.enter_context(started(project, name, code, options, one)))
            for name, code, options in servers(project.package)
        ]
        for row in rows:
            row.server.wait_until_ready()
        os.sched_setaffinity(0, {other})
        for row in rows:
            row.load(1)  # warm
            row.microseconds.clear()
            row.per_second.clear()
        for _ in range(rounds):
            for row in rows:
                row.load(seconds)
    bare = rows[0]
    for row in rows:
        cpu, rate = map(statistics.median, (row.microseconds, row.per_second))
        by_cpu = cpu / statistics.median(bare.microseconds)
        by_rate = rate / statistics.median(bare.per_second)
        print(f"{row.name:28} {cpu:6.1f} us  x {by_cpu:.2f}   {rate:6.0f}/s  x {by_rate:.2f}")


def servers(package: str) -> list[Candidate]:
    """The name of each, its application, and what its command has instead."""
    slow = {"uvloop": "asyncio", "httptools": "h11"}
    bare: list[Candidate] = [("bare", BARE + ROUTE, {}), ("bare again", BARE + ROUTE, {})]
    ours: list[Candidate] = [
        (
            "complete" if part == "nothing" else f"without {part}",
            f"from types import SimpleNamespace\nfrom {package} import serving\n{code}\n"
            f"from {package}.app import create_app\napp = create_app()\n{ROUTE}",
            {},
        )
        for part, code in WITHOUT.items()
    ]
    return [*bare, ("naive", BARE + ROUTE, slow), *ours]


def started(
    project: Project, name: str, code: str, instead: dict[str, str], core: int
) -> AbstractContextManager[Server]:
    """The server of an application, as the image starts it, on one core."""
    module = "bench_" + re.sub(r"\W", "_", name)
    (project.path / f"{module}.py").write_text(code)
    port = free_port()
    command, environment = start_command(project, f"{module}:app", port)
    command = [instead.get(word, word) for word in command]
    if "serving" not in code:
        command.append("--no-access-log")
    command = ["taskset", "--cpu-list", str(core), *command]
    environment["ENVIRONMENT"] = "production"
    return launch(project, command, project.path / f"{module}.log", port, environment)


if __name__ == "__main__":
    main()
