"""Latency of the probes and memory of the service while clients load large bodies.

    .venv/bin/python -m bench.probes [SIZE_KB [CLIENTS [SECONDS]]]

The rendered service, as its image starts it, has one core to itself; the clients (wrk, gzip) and
the probes share another. A probe opens a connection, as the kubelet does, and doesn't wait for the
one before it. On a machine with other work, `nice -n -15` in front.
"""

import os
import re
import subprocess
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from tempfile import TemporaryDirectory

import yaml

from tests.harness.project import Project
from tests.harness.server import Server, free_port, launch, start_command
from tests.harness.template import render, snapshot

from . import meter
from .meter import MIB
from .results import arguments

GZIP = "Accept-Encoding: gzip"
PROBE_EVERY_SECONDS = 0.2


@dataclass
class Memory:
    """The maximum memory of a process, in KiB."""

    rss: int = 0
    pss: int = 0

    def look(self, process: int) -> None:
        seen = meter.memory(process)
        self.rss, self.pss = max(self.rss, seen["Rss"]), max(self.pss, seen["Pss"])

    def __str__(self) -> str:
        return f"PSS {self.pss / MIB:.0f} MiB, RSS {self.rss / MIB:.0f} MiB"


@dataclass
class Waits:
    """A probe, and the durations of its responses in milliseconds."""

    path: str
    milliseconds: list[float] = field(default_factory=list)

    def request(self, server: Server) -> None:
        started = time.perf_counter()
        response = server.get(self.path)
        self.milliseconds.append((time.perf_counter() - started) * 1000)
        assert response.status == 200, response

    def __str__(self) -> str:
        ordered = sorted(self.milliseconds)
        p50, p99 = (ordered[int(len(ordered) * share)] for share in (0.5, 0.99))
        figures = f"p50 {p50:.1f} ms, p99 {p99:.1f} ms, slowest {ordered[-1]:.1f} ms"
        return f"{self.path}: {figures} of {len(ordered)}"


def main() -> None:
    size_kb, clients, seconds = arguments((900, 20, 30))
    one, other = meter.cores()
    with TemporaryDirectory() as directory:
        project = rendered(Path(directory))
        project.uv("sync", "--quiet", "--no-dev")
        port = free_port()
        command, environment = start_command(project, f"{project.package}.app:app", port)
        command = ["taskset", "--cpu-list", str(one), *command]
        environment["ENVIRONMENT"] = "production"
        log = Path(directory, "log")
        with launch(project, command, log, port, environment) as server:
            server.wait_until_ready()
            os.sched_setaffinity(0, {other})
            idle, busy = Memory(), Memory()
            idle.look(server.process.pid)
            print(f"idle: {idle}")
            probes = [Waits("/health/live"), Waits("/health/ready")]
            report = under_load(
                server, f"/large-response?size_kb={size_kb}", clients, seconds, probes, busy
            )
        print(f"{clients} clients pull {size_kb} KiB for {seconds} s: {busy}")
        print(*probes, sep="\n")
        print(*re.findall(r"Requests/sec.*|Socket errors.*|Non-2xx.*", report), sep="\n")
        print(f"the manifest: {allowed(project)}")


def rendered(directory: Path, **answers: object) -> Project:
    """Return the service of the documentation in an empty directory, with these answers."""
    os.environ["COPIER_SETTINGS_PATH"] = str(directory / "settings.yml")
    Path(directory, "settings.yml").write_text("{}\n")
    project = Project(directory / "service")
    answers = {"project_name": "Orders API", "deployment": "kubernetes", **answers}
    render(snapshot(directory / "template"), project.path, answers)
    return project


def under_load(
    server: Server,
    path: str,
    clients: int,
    seconds: float,
    probes: list[Waits],
    memory: Memory,
    every: float = PROBE_EVERY_SECONDS,
) -> str:
    """Return the report of wrk; the probes run and the memory is sampled meanwhile."""
    command = meter.wrk_command(
        server, path, seconds, "--timeout=30s", f"--header={GZIP}", clients=clients
    )
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as wrk:
        with ThreadPoolExecutor(max_workers=200) as pool:
            answers = []
            while wrk.poll() is None:
                answers += [pool.submit(probe.request, server) for probe in probes]
                memory.look(server.process.pid)
                time.sleep(every)
        for response in answers:
            response.result()
        assert wrk.stdout
        return wrk.stdout.read()


def allowed(project: Project) -> str:
    """Return the timeouts of the probes and the memory limit of the manifest."""
    file = project.path / "deploy/kubernetes/base/deployment.yaml"
    [container] = yaml.safe_load(file.read_text())["spec"]["template"]["spec"]["containers"]
    timeouts = {
        name: container[f"{name}Probe"]["timeoutSeconds"] for name in ("liveness", "readiness")
    }
    resources = container["resources"]
    return (
        f"liveness {timeouts['liveness']} s, readiness {timeouts['readiness']} s, memory "
        f"{resources['requests']['memory']} requested, {resources['limits']['memory']} at the most"
    )


if __name__ == "__main__":
    main()
