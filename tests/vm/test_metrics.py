"""Metrics of several workers: their files, dead workers, full disks, and scrapes."""

import asyncio
import http.client
import json
import os
import re
import resource
import signal
import subprocess
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import pytest

from ..harness.load import Load
from ..harness.project import Project
from ..harness.server import START_SECONDS, Server, free_port, launch, start_command
from ..harness.wait import wait_until

APPLICATION = """
import gc
import logging
import os
import threading

from prometheus_client import Counter, Gauge

from {package}.app import create_app
from {package}.serving.lifecycle import drain
from {package}.serving.observability import metrics_server

app = create_app()
if "HURRY" in os.environ:  # an exiting worker does not wait for the others
    drain.CLOSE_SECONDS = 0.0
ASKED = Counter("asked", "Requests for the process")
HELD = Gauge("held", "Of the processes that live", multiprocess_mode="livesum")
BUILD = Gauge("build", "Set on import", multiprocess_mode="livemax")
BUILD.set(7)
OF_EACH = Gauge("of_each", "Of each process")


@app.get("/process")
async def process() -> int:
    ASKED.inc()
    HELD.set(1)
    OF_EACH.set(1)
    return os.getpid()


def other() -> None:
    pass


for number in range(300):
    app.add_api_route(f"/other/{{number}}", other)

LINES = Counter("lines", "Lines of the log", ("logger",))


class Counting(logging.Handler):
    def emit(self, record: logging.LogRecord) -> None:
        LINES.labels(record.name).inc()


if "COUNT_LOG" in os.environ:
    logging.getLogger().addHandler(Counting())


@app.get("/log")
async def log() -> int:
    for number in range(1000):
        logging.getLogger(f"a logger with a long name, {{number}}").warning("a line")
    return 1000


collecting = [gc.isenabled()]
generate = metrics_server.generate_latest


def generate_latest(registry: object) -> bytes:
    collecting.append(gc.isenabled())
    return generate(registry)


metrics_server.generate_latest = generate_latest


@app.get("/collecting")
async def is_collecting() -> list[bool]:
    return [*collecting, gc.isenabled()]


rendering, released = threading.Event(), threading.Event()
render = metrics_server.render


def render_when_released() -> bytes:
    rendering.set()
    assert released.wait(60)
    return render()


if "HOLD" in os.environ:
    metrics_server.render = render_when_released


@app.get("/release")
async def release() -> bool:
    if rendering.is_set():
        released.set()
    return released.is_set()
"""

CONFIGURATION = """
exec(open("deploy/vm/gunicorn.conf.py").read())
max_requests = {max_requests}
max_requests_jitter = 0
"""

of_vm = pytest.mark.parametrize("target", ["vm"], indirect=True, scope="session")


@contextmanager
def served(
    project: Project,
    directory: Path,
    env: Mapping[str, str] | None = None,
    *,
    max_requests: int = 0,
    processes: int = 2,
) -> Iterator[Server]:
    """Yield the application above, all workers started, with its metrics on a free port."""
    (directory / "counting.py").write_text(APPLICATION.format(package=project.package))
    configuration = directory / "gunicorn.conf.py"
    configuration.write_text(CONFIGURATION.format(max_requests=max_requests))
    port, metrics_port = free_port(), free_port()
    command, options = start_command(project, "counting:app", port)
    command = [str(configuration) if word.endswith("conf.py") else word for word in command]
    variables = {
        "ENVIRONMENT": "production",
        **options,
        "METRICS_PORT": str(metrics_port),
        "PYTHONPATH": str(directory),
        "WEB_CONCURRENCY": str(processes),
        **(env or {}),
    }
    on_kubernetes = "kubernetes" in project.answers.values()
    if on_kubernetes:
        del variables["WEB_CONCURRENCY"]
    with launch(project, command, directory / "log", port, variables) as server:
        server.wait_until_ready()
        if variables.get("LOG_LEVEL") == "warning":
            wait_until(lambda: len(workers(server)) == processes, "all workers")
        elif not on_kubernetes:
            started = "Application startup complete"
            wait_until(lambda: server.log.count(started) == processes, "all workers")
        server.metrics_port = metrics_port
        yield server


def scrape(server: Server) -> str:
    """Return the metrics from one worker."""
    connection = http.client.HTTPConnection("127.0.0.1", server.metrics_port, timeout=90)
    try:
        connection.request("GET", "/metrics")
        response = connection.getresponse()
        text = response.read().decode()
        assert response.status == 200, text
        return text
    finally:
        connection.close()


def value(server: Server, name: str) -> float | None:
    """Return the value of a metric without labels, or None."""
    match = re.search(rf"^{name} (\S+)$", scrape(server), re.MULTILINE)
    return float(match[1]) if match else None


def workers(server: Server) -> list[int]:
    """Return the master's children."""
    master = server.process.pid
    found = Path(f"/proc/{master}/task/{master}/children").read_text()
    return [int(child) for child in found.split()]


def files(directory: Path) -> list[str]:
    return sorted(file.name for file in directory.iterdir())


@of_vm
def test_200_recycled_workers_leave_20_files_and_exact_counts(
    project: Project, tmp_path: Path
) -> None:
    kept = tmp_path / "metrics"
    kept.mkdir()
    seen: set[int] = set()

    async def recycle(server: Server) -> int:
        load = Load(server.port, ["/process"], connections=8)
        async with asyncio.timeout(900):
            while len(seen) < 203:
                seen.update(workers(server))
                await asyncio.sleep(0.02)
        tally = await load.stop()
        assert (tally.lost, tally.failed, tally.refused) == (0, 0, 0), tally
        return tally.answered

    environment = {"PROMETHEUS_MULTIPROC_DIR": str(kept), "LOG_LEVEL": "warning", "HURRY": "yes"}
    with served(project, tmp_path, environment, max_requests=10, processes=3) as server:
        answered = asyncio.run(recycle(server))

        assert value(server, "asked_total") == answered
        wait_until(lambda: value(server, "threads_limit") == 3 * 40, "three workers")
        stored = list(kept.glob("*.db"))  # without the locks
        assert len(stored) <= 20, stored
        assert sum(file.stat().st_size for file in stored) <= 20 * 2**16
        assert scrape(server).count("\nof_each{") <= 4, "a series of a slot, not of a process"


@of_vm
def test_dead_worker_loses_its_gauges_and_keeps_its_counts(
    project: Project, tmp_path: Path
) -> None:
    with served(project, tmp_path, processes=3) as server:
        requested: set[int] = set()
        while len(requested) < 3:
            requested.add(int(server.get("/process").body))
        counted = value(server, "asked_total")
        assert value(server, "held") == 3
        server.process.send_signal(signal.SIGTTOU)  # one worker less
        wait_until(lambda: len(workers(server)) == 2, "two workers")
        assert value(server, "held") == 2

        victim = workers(server)[0]
        os.kill(victim, signal.SIGKILL)
        wait_until(lambda: victim not in workers(server), "replaced")

        wait_until(lambda: value(server, "held") == 1, "without the gauge of the dead one")
        assert value(server, "asked_total") == counted
        assert value(server, "build") == 7


@of_vm
def test_configured_directory_is_cleared_of_metric_files_only(
    project: Project, tmp_path: Path
) -> None:
    directory = tmp_path / "directory"
    directory.mkdir()
    (directory / "notes.txt").write_text("the team's")
    (directory / "counter_4711.db").write_bytes(b"another program's")
    (directory / "counter_slot-9.db").write_bytes(b"of a service that was killed")

    with served(project, tmp_path, {"PROMETHEUS_MULTIPROC_DIR": str(directory)}) as server:
        server.get("/process")
        assert value(server, "asked_total") == 1
        assert "counter_slot-9.db" not in files(directory)
        assert server.stop() == 0

    assert files(directory) == ["counter_4711.db", "notes.txt"]


@of_vm
def test_configuration_check_keeps_the_files_of_a_running_service(
    project: Project, tmp_path: Path
) -> None:
    """The check that systemd runs before a reload, in the same environment."""
    directory = tmp_path / "directory"
    directory.mkdir()
    environment = {"PROMETHEUS_MULTIPROC_DIR": str(directory), "PYTHONPATH": str(tmp_path)}

    with served(project, tmp_path, environment) as server:
        server.get("/process")
        check = ["--config", f"{tmp_path}/gunicorn.conf.py", "--check-config", "counting:app"]
        project.run(project.program("gunicorn"), *check, env=environment)
        before = set(workers(server))
        server.process.send_signal(signal.SIGHUP)
        wait_until(lambda: not before & set(workers(server)), "reloaded")

        assert value(server, "asked_total") == 1


@of_vm
@pytest.mark.parametrize("kind", ["missing", "a file"])
def test_missing_metrics_directory_is_refused(project: Project, tmp_path: Path, kind: str) -> None:
    directory = tmp_path / "directory"
    if kind == "a file":
        directory.write_text("")
    env = {"PROMETHEUS_MULTIPROC_DIR": str(directory), "BIND": f"127.0.0.1:{free_port()}"}
    command = [project.program("gunicorn"), "--config", "deploy/vm/gunicorn.conf.py"]

    with launch(project, command, tmp_path / "log", 0, env) as server:
        assert server.process.wait(START_SECONDS) != 0

    [line] = server.log.splitlines()
    assert line.startswith(f"PROMETHEUS_MULTIPROC_DIR={directory}: ")


@pytest.fixture
def small(tmp_path: Path) -> Iterator[Path]:
    """A file system with room for the files of two workers only."""
    if os.geteuid():
        pytest.skip("no file system of its own without root")
    directory = tmp_path / "small"
    directory.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", f"size={12 * 2**16}", "tmpfs", str(directory)]
    subprocess.run(mount, check=True)
    yield directory
    subprocess.run(["umount", "--lazy", str(directory)], check=True)


def asked_for_all(server: Server) -> set[int]:
    """Request all routes; return the statuses."""
    return {server.get(f"/other/{number}").status for number in range(300)}


@of_vm
def test_full_disk_loses_metrics_but_no_worker(
    project: Project, tmp_path: Path, small: Path
) -> None:
    with served(project, tmp_path, {"PROMETHEUS_MULTIPROC_DIR": str(small)}) as server:
        before = workers(server)
        free = os.statvfs(small)
        (small / "filler").write_bytes(bytes(free.f_bavail * free.f_frsize))

        assert asked_for_all(server) == {200}
        assert asked_for_all(server) == {200}
        assert workers(server) == before
        assert value(server, "build") == 7
        lines = [e for e in server.events if e["event"].startswith("Metrics are missing")]
        assert 1 <= len(lines) <= 2, "one line per worker that has noticed it"
        assert "No space left on device" in lines[0]["event"]


@of_vm
def test_full_disk_stops_no_worker_that_counts_log_lines(
    project: Project, tmp_path: Path, small: Path
) -> None:
    """The log line increments the metric that had no room."""
    environment = {"PROMETHEUS_MULTIPROC_DIR": str(small), "COUNT_LOG": "yes"}
    with served(project, tmp_path, environment, processes=1) as server:
        free = os.statvfs(small)
        (small / "filler").write_bytes(bytes(free.f_bavail * free.f_frsize))

        assert server.get("/log").body == b"1000"
        assert "Metrics are missing" in server.log


@of_vm
def test_full_disk_at_start_loses_metrics_but_no_worker(
    project: Project, tmp_path: Path, small: Path
) -> None:
    (small / "filler").write_bytes(bytes(12 * 2**16))
    environment = {"PROMETHEUS_MULTIPROC_DIR": str(small), "PYTHONPATH": str(tmp_path)}

    with served(project, tmp_path, environment) as server:
        before = workers(server)
        check = ["--config", f"{tmp_path}/gunicorn.conf.py", "--check-config", "counting:app"]
        project.run(project.program("gunicorn"), *check, env=environment)
        assert "slots" in files(small), "the locks of the service, though it has no files yet"

        assert asked_for_all(server) == {200}
        assert scrape(server) == ""
        assert workers(server) == before
        lines = [e for e in server.events if e["event"].startswith("Metrics are missing")]
        assert len(lines) == 3, "one line of the master and of each worker"


@of_vm
def test_sampling_continues_after_a_logged_error(project: Project, tmp_path: Path) -> None:
    with served(project, tmp_path, processes=1) as server:
        [worker] = workers(server)
        soft, hard = resource.prlimit(worker, resource.RLIMIT_NOFILE)
        resource.prlimit(worker, resource.RLIMIT_NOFILE, (0, hard))
        server.wait_for_log("Metrics could not be sampled")
        resource.prlimit(worker, resource.RLIMIT_NOFILE, (soft, hard))

        before = value(server, "process_cpu_seconds_total")
        wait_until(lambda: value(server, "process_cpu_seconds_total") != before, "sampled again")
        assert server.log.count("Metrics could not be sampled") == 1
        assert "Too many open files" in server.log


def test_service_responds_while_it_is_scraped(project: Project, tmp_path: Path) -> None:
    """The scrape waits for a request that only the same event loop can serve."""
    with served(project, tmp_path, {"HOLD": "yes"}, processes=1) as server:
        texts: list[str] = []
        scraping = threading.Thread(target=lambda: texts.append(scrape(server)))
        scraping.start()
        wait_until(lambda: server.get("/release").body == b"true", "rendered meanwhile")
        scraping.join()

        assert "app_info{" in texts[0]
        collecting = json.loads(server.get("/collecting").body)
        assert collecting == [True, False, True], "before, meanwhile, after"
