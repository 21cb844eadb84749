"""What compression costs, what it saves, and whether it holds up the event loop.

    .venv/bin/python -m bench.compression [SIZE_KB [SECONDS [ROUNDS]]]

First each coding by itself: the size of one body, and the CPU time for it. Then in the rendered
service, round after round: four clients (wrk) pull that body from one process, meanwhile a probe
asks for /health/live; and on a VM, gunicorn and nginx together, with the service or nginx
compressing. The servers have one core to themselves, the clients another; medians of the rounds.
"""

import os
import re
import statistics
import subprocess
import sys
import time
import zlib
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory

import brotli

from tests.harness import host
from tests.harness.project import Project
from tests.harness.server import Server, launch, serve
from tests.harness.template import render, snapshot

if sys.version_info >= (3, 14):
    from compression import zstd
else:
    from backports import zstd

CLIENTS = 4
PROBE_EVERY_SECONDS = 0.02
KIB = 1024
TICKS = os.sysconf("SC_CLK_TCK")


def brotli_whole(body: bytes, quality: int) -> bytes:
    """With the window that the service has."""
    encoded: bytes = brotli.compress(body, quality=quality, lgwin=18)  # type: ignore[no-untyped-call]
    return encoded


CODINGS: dict[str, Callable[[bytes], bytes]] = {
    "gzip-1": lambda body: zlib.compress(body, 1, wbits=31),
    "gzip-5": lambda body: zlib.compress(body, 5, wbits=31),
    "gzip-9": lambda body: zlib.compress(body, 9, wbits=31),
    "br-1": lambda body: brotli_whole(body, 1),
    "br-4": lambda body: brotli_whole(body, 4),
    "br-5": lambda body: brotli_whole(body, 5),
    "zstd-1": lambda body: zstd.compress(body, 1),
    "zstd-3": lambda body: zstd.compress(body, 3),
    "zstd-6": lambda body: zstd.compress(body, 6),
}

# nginx compresses instead, with the level that the service has.
NGINX_GZIP = """gzip on;
    gzip_comp_level 5;
    gzip_types application/json;
    gzip_proxied any;"""


# The service with a body that is there already: building one takes longer than compressing it.
APPLICATION = """
from fastapi import Response

from {package}.app import create_app
from {package}.routes.large_response import large_response

app = create_app()
body = large_response({size_kb}).body


@app.get("/body")
async def get_body() -> Response:
    return Response(body, media_type="application/json")
"""


def main() -> None:
    size_kb, seconds, rounds = [*map(int, sys.argv[1:]), *(900, 3, 5)[len(sys.argv) - 1 :]]
    path = "/body"
    servers, clients = cores()
    with TemporaryDirectory() as directory, ExitStack() as running:
        pods, vm = (rendered(Path(directory), target, size_kb) for target in ("kubernetes", "vm"))
        os.sched_setaffinity(0, {servers})  # what is started inherits it
        service = running.enter_context(served(pods, Path(directory, "service.log")))
        in_front = {
            name: running.enter_context(behind_nginx(vm, Path(directory, name), edit))
            for name, edit in {"service": {}, "nginx": {"gzip off;": NGINX_GZIP}}.items()
        }
        body = service.get(path).body
        by_themselves(body)

        os.sched_setaffinity(0, {clients})
        figures: dict[str, list[tuple[float, ...]]] = {}
        for _ in range(rounds):
            for coding in ("identity", "gzip", "br", "zstd"):
                row = f"one process, {coding}"
                figures.setdefault(row, []).append(
                    pulled(service, [service], path, coding, seconds)
                )
                row = f"gunicorn and nginx, {coding} by the service"
                nginx, gunicorn = in_front["service"]
                figures.setdefault(row, []).append(
                    pulled(nginx, [nginx, gunicorn], path, coding, seconds)
                )
            nginx, gunicorn = in_front["nginx"]
            figures.setdefault("gunicorn and nginx, gzip by nginx", []).append(
                pulled(nginx, [nginx, gunicorn], path, "gzip", seconds)
            )
    print(f"\n{CLIENTS} clients: CPU ms a response, responses/s, p50 and p99 of /health/live in ms")
    for row, rounds_of in sorted(figures.items()):
        cpu, rate, p50, p99 = map(statistics.median, zip(*rounds_of, strict=True))
        print(f"{row:45} {cpu:6.2f} {rate:6.0f} {p50:6.1f} {p99:6.1f}")


def cores() -> tuple[int, int]:
    """One for the servers, one for the clients."""
    one, *_, other = sorted(os.sched_getaffinity(0))
    return one, other


def by_themselves(body: bytes) -> None:
    """Print the size and the CPU time of each coding and level."""
    print(f"{len(body) / KIB:.0f} KiB of JSON: KiB and CPU ms")
    taken: dict[str, list[float]] = {name: [] for name in CODINGS}
    for _ in range(9):
        for name, encode in CODINGS.items():
            started = time.thread_time()
            encode(body)
            taken[name].append((time.thread_time() - started) * 1000)
    for name, encode in CODINGS.items():
        kib = len(encode(body)) / KIB
        print(f"{name:8} {kib:6.1f} {statistics.median(taken[name]):6.2f}")


def rendered(directory: Path, target: str, size_kb: int) -> Project:
    """The service of the documentation with its large body, below a directory."""
    os.environ["COPIER_SETTINGS_PATH"] = str(directory / "settings.yml")
    Path(directory, "settings.yml").write_text("{}\n")
    project = Project(directory / target)
    answers = {"project_name": "Orders API", "deployment": target}
    render(snapshot(directory / f"template-{target}"), project.path, answers)
    project.uv("sync", "--quiet", "--no-dev")
    application = APPLICATION.format(package=project.package, size_kb=size_kb)
    (project.path / "src" / "bench_body.py").write_text(application)
    return project


@contextmanager
def served(project: Project, log: Path) -> Iterator[Server]:
    """The service in one process."""
    with serve(project, log, "bench_body:app", {"WEB_CONCURRENCY": "1"}) as server:
        yield server


@contextmanager
def behind_nginx(
    project: Project, directory: Path, edits: dict[str, str]
) -> Iterator[tuple[Server, Server]]:
    """nginx with an edited site, and gunicorn with one worker behind it."""
    directory.mkdir()
    socket = directory / "socket"
    site = re.sub(r"server unix:\S+", f"server unix:{socket}", host.site_file(project).read_text())
    for old, new in edits.items():
        assert old in site
        site = site.replace(old, new)
    command = [
        project.program("gunicorn"),
        "--config",
        "deploy/vm/gunicorn.conf.py",
        "bench_body:app",
    ]
    env = {"BIND": f"unix:{socket}", "METRICS_PORT": "0", "ENVIRONMENT": "production"}
    env |= {"FORWARDED_ALLOW_IPS": "*", "WEB_CONCURRENCY": "1"}
    if edits:  # whoever is in front asks the service for nothing
        site = site.replace(
            "# Keep-alive", 'proxy_set_header Accept-Encoding "";\n        # Keep-alive'
        )
    with launch(project, command, directory / "gunicorn.log", 0, env) as gunicorn:
        gunicorn.wait_for_log("Listening at")
        for path in (socket, directory.parent):  # nginx is somebody else
            path.chmod(0o777)
        with host.nginx(project, site, directory) as nginx:
            yield nginx, gunicorn


def pulled(
    server: Server, measured: list[Server], path: str, coding: str, seconds: int
) -> tuple[float, float, float, float]:
    """CPU ms a response, responses a second, p50 and p99 of the probe in ms."""
    url = f"http://127.0.0.1:{server.port}{path}"
    command = ["wrk", "--threads=1", f"--connections={CLIENTS}", f"--duration={seconds}s"]
    command += [f"--header=Accept-Encoding: {coding}", url]
    before, waits = cpu_seconds(measured), []
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as wrk:
        while wrk.poll() is None:
            started = time.perf_counter()
            assert server.get("/health/live").status == 200
            waits.append((time.perf_counter() - started) * 1000)
            time.sleep(PROBE_EVERY_SECONDS)
        assert wrk.stdout
        report = wrk.stdout.read()
    spent = cpu_seconds(measured) - before
    [responses] = map(int, re.findall(r"(\d+) requests in", report))
    assert "Non-2xx" not in report, report
    waits.sort()
    p50, p99 = (waits[int(len(waits) * share)] for share in (0.5, 0.99))
    return spent / responses * 1000, responses / seconds, p50, p99


def cpu_seconds(servers: list[Server]) -> float:
    """What the processes of these servers have computed; each server is a session."""
    sessions = {str(server.process.pid) for server in servers}
    spent = 0
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            fields = stat.read_text().rpartition(")")[2].split()
        except OSError:  # it has just ended
            continue
        if fields[3] in sessions:
            spent += int(fields[11]) + int(fields[12])
    return spent / TICKS


if __name__ == "__main__":
    main()
