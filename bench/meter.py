"""Measuring tools: cores, wrk, CPU and memory of a server."""

import os
import re
import socket
import statistics
import subprocess
import sys
import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

from tests.harness.server import START_SECONDS, Server

TICKS = os.sysconf("SC_CLK_TCK")
MIB = 1024
UNITS = {"us": 0.001, "ms": 1.0, "s": 1000.0, "m": 60_000.0}

CLIENTS = 16


@dataclass(frozen=True)
class Report:
    """Output of wrk; all statuses were below 400."""

    answered: int
    per_second: float
    p99: float
    """Milliseconds."""


@dataclass
class Row:
    """A server, with wrk's results and the CPU per request of each round."""

    name: str
    server: Server
    microseconds: list[float] = field(default_factory=list)
    reports: list[Report] = field(default_factory=list)

    def load(self, path: str, seconds: float) -> None:
        """Measure one round."""
        before = cpu_seconds(self.server)
        report = wrk(self.server, path, seconds)
        used = cpu_seconds(self.server) - before
        self.microseconds.append(used / report.answered * 1e6)
        self.reports.append(report)

    def figures(self) -> dict[str, str | float]:
        """Return the medians."""
        return {
            "name": self.name,
            "cpu_us": round(statistics.median(self.microseconds), 1),
            "per_second": round(statistics.median(report.per_second for report in self.reports)),
            "p99_ms": round(statistics.median(report.p99 for report in self.reports), 2),
        }


def in_turn(rows: Sequence[Row], path: str, rounds: int, seconds: int) -> None:
    """Warm up the servers, then load them in turn, round by round."""
    for row in rows:
        wrk(row.server, path, 1)
    for round_number in range(1, rounds + 1):
        say(f"  round {round_number} of {rounds}: {len(rows)} servers, {seconds} s each")
        for row in rows:
            row.load(path, seconds)


def say(text: str) -> None:
    """Print the current step."""
    print(text, file=sys.stderr, flush=True)


def cores() -> tuple[int, int]:
    """Return a core for the servers and one for the clients."""
    one, *_, other = sorted(os.sched_getaffinity(0))
    return one, other


def memory_directory() -> str | None:
    """Return a directory in memory for logs; None (temporary files) outside Linux."""
    return "/dev/shm" if os.path.isdir("/dev/shm") else None


def wait_until_listening(server: Server, path: Path) -> None:
    """Return once the Unix socket of a server accepts connections; its log may not tell.

    Raises `AssertionError` with its log when it ends instead, or takes too long.
    """
    deadline = time.monotonic() + START_SECONDS
    while time.monotonic() < deadline and server.process.poll() is None:
        with socket.socket(socket.AF_UNIX) as client, suppress(OSError):
            client.connect(str(path))
            return
        time.sleep(0.02)
    raise AssertionError(f"not listening:\n{server.log}")


def wrk_command(
    server: Server, path: str, seconds: float, *options: str, clients: int = CLIENTS
) -> list[str]:
    """Keep-alive clients, each of which sends requests one after another."""
    command = ["wrk", "--threads=1", f"--connections={clients}", f"--duration={seconds:g}s"]
    return [*command, "--latency", *options, f"http://127.0.0.1:{server.port}{path}"]


def read(report: str) -> Report:
    """Parse the output of wrk; raises `AssertionError` if a response was an error."""
    assert "Non-2xx" not in report, report
    [answered] = re.findall(r"(\d+) requests in", report)
    [rate] = re.findall(r"Requests/sec: +([\d.]+)", report)
    [(p99, unit)] = re.findall(r"99% +([\d.]+)(us|ms|s|m)$", report, re.MULTILINE)
    return Report(int(answered), float(rate), float(p99) * UNITS[unit])


def wrk(server: Server, path: str, seconds: float, core: int | None = None) -> Report:
    """Load a server, from a given core."""
    pinned = [] if core is None else ["taskset", "--cpu-list", str(core)]
    command = [*pinned, *wrk_command(server, path, seconds)]
    return read(subprocess.run(command, check=True, capture_output=True, text=True).stdout)


def processes(server: Server) -> dict[int, list[str]]:
    """Return the fields of /proc/PID/stat, from the state on, for each process of a session."""
    found = {}
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            fields = stat.read_text().rpartition(")")[2].split()
        except OSError:  # the process has ended
            continue
        if fields[3] == str(server.process.pid):
            found[int(stat.parent.name)] = fields
    return found


def cpu_seconds(*servers: Server) -> float:
    """Return the CPU time of the processes, including those that have ended."""
    used = (sum(map(int, f[11:15])) for server in servers for f in processes(server).values())
    return sum(used) / TICKS


def memory(*processes: int) -> dict[str, int]:
    """Return the total PSS and RSS of processes, in KiB; PSS counts a shared page once."""
    held = {"Pss": 0, "Rss": 0}
    for process in processes:
        rollup = Path(f"/proc/{process}/smaps_rollup").read_text()
        seen = {name: int(kib) for name, kib in re.findall(r"^(\w+): +(\d+) kB$", rollup, re.M)}
        for name in held:
            held[name] += seen[name]
    return held
