"""CPU time and size of compression, and whether it delays the event loop.

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

from . import meter
from .plot import Bar, Chart, Panel
from .probes import rendered
from .results import Figures, Table, show

if sys.version_info >= (3, 14):
    from compression import zstd
else:
    from backports import zstd

FULL, QUICK = (900, 3, 2), (900, 1, 1)

CLIENTS = 4
PROBE_EVERY_SECONDS = 0.02
KIB = 1024


def brotli_whole(body: bytes, quality: int) -> bytes:
    """Brotli with the service's window."""
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

OURS = ("zstd-1", "br-4", "gzip-5")
"""The codings of the service; tests/docs/test_bench.py compares them."""

# nginx compresses instead, with the service's level.
NGINX_GZIP = """gzip on;
    gzip_comp_level 5;
    gzip_types application/json;
    gzip_proxied any;"""


# The service with a prebuilt body, because building one takes longer than compressing it.
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
    show(measure, tables, FULL)


def measure(size_kb: int, seconds: int, rounds: int) -> Figures:
    """KiB and CPU ms of each coding, and medians over the rounds of each server."""
    path = "/body"
    servers, clients = meter.cores()
    everywhere = os.sched_getaffinity(0)
    with TemporaryDirectory() as directory, ExitStack() as running:
        pods, vm = (prepared(Path(directory), target, size_kb) for target in ("kubernetes", "vm"))
        running.callback(os.sched_setaffinity, 0, everywhere)
        os.sched_setaffinity(0, {servers})  # inherited by child processes
        service = running.enter_context(served(pods, Path(directory, "service.log")))
        in_front = {
            name: running.enter_context(behind_nginx(vm, Path(directory, name), edit))
            for name, edit in {"service": {}, "nginx": {"gzip off;": NGINX_GZIP}}.items()
        }
        codings = by_themselves(service.get(path).body)

        os.sched_setaffinity(0, {clients})
        figures: dict[str, list[tuple[float, ...]]] = {}
        for number in range(1, rounds + 1):
            meter.say(f"  round {number} of {rounds}: 9 rows, {seconds} s each")
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
    keys = ("cpu_ms", "per_second", "p50_ms", "p99_ms")
    rows = [
        {"name": row}
        | {
            key: round(statistics.median(seen), 2)
            for key, seen in zip(keys, zip(*rounds_of, strict=True), strict=True)
        }
        for row, rounds_of in sorted(figures.items())
    ]
    return {
        "size_kb": size_kb,
        "seconds": seconds,
        "rounds": rounds,
        "codings": codings,
        "rows": rows,
    }


def tables(figures: Figures) -> dict[str, Table]:
    """Return the codings, and the servers that use them."""
    codings = [
        (
            f"**{row['name']}**" if row["name"] in OURS else row["name"],
            f"{row['kib']:.0f}",
            f"{row['cpu_ms']:.1f}" if row["cpu_ms"] else "",
        )
        for row in figures["codings"]
    ]
    rows = [
        (
            row["name"],
            f"{row['cpu_ms']:.2f} ms",
            f"{row['per_second']:.0f}",
            f"{row['p50_ms']:.1f} ms",
            f"{row['p99_ms']:.1f} ms",
        )
        for row in figures["rows"]
    ]
    head = (f"{CLIENTS} clients", "CPU per response", "responses per second", "probe, p50", "p99")
    return {
        "codings": [(f"{figures['size_kb']} KiB of JSON", "KiB", "CPU ms"), *codings],
        "compression": [head, *rows],
    }


def charts(figures: Figures) -> dict[str, Chart]:
    """Return the bytes and the CPU time of each coding."""

    def panel(head: str, key: str, written: str) -> Panel:
        bars = [
            Bar(row["name"], row[key], written.format(row[key]), kind(row["name"]))
            for row in figures["codings"]
            if row[key]
        ]
        return Panel(head, bars)

    def kind(name: str) -> str:
        return "ours" if name in OURS else "other"

    return {
        "compression": Chart(
            "Size and CPU time of each coding",
            f"KiB and CPU milliseconds of {figures['size_kb']} KiB of JSON by coding and level;"
            " those that the service uses are green",
            [panel("size, KiB", "kib", "{:.0f}"), panel("CPU, ms", "cpu_ms", "{:.1f}")],
        )
    }


def by_themselves(body: bytes) -> list[Figures]:
    """Return the size and the CPU time of each coding and level, the plain body first."""
    taken: dict[str, list[float]] = {name: [] for name in CODINGS}
    for _ in range(9):
        for name, encode in CODINGS.items():
            started = time.thread_time()
            encode(body)
            taken[name].append((time.thread_time() - started) * 1000)
    plain: Figures = {"name": "plain", "kib": round(len(body) / KIB, 1), "cpu_ms": 0}
    return [
        plain,
        *(
            {
                "name": name,
                "kib": round(len(encode(body)) / KIB, 1),
                "cpu_ms": round(statistics.median(taken[name]), 2),
            }
            for name, encode in CODINGS.items()
        ),
    ]


def prepared(directory: Path, target: str, size_kb: int) -> Project:
    """Render the service of the documentation with its large body, in a directory."""
    below = directory / target
    below.mkdir()
    project = rendered(below, deployment=target)
    project.uv("sync", "--quiet", "--no-dev")
    application = APPLICATION.format(package=project.package, size_kb=size_kb)
    (project.path / "src" / "bench_body.py").write_text(application)
    return project


@contextmanager
def served(project: Project, log: Path) -> Iterator[Server]:
    """Yield the service in one process."""
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
    if edits:  # nginx must not request compressed responses
        site = site.replace(
            "# Keep-alive", 'proxy_set_header Accept-Encoding "";\n        # Keep-alive'
        )
    with launch(project, command, directory / "gunicorn.log", 0, env) as gunicorn:
        meter.wait_until_listening(gunicorn, socket)
        for path in (socket, directory.parent):  # nginx runs as another user
            path.chmod(0o777)
        with host.nginx(project, site, directory) as nginx:
            yield nginx, gunicorn


def pulled(
    server: Server, measured: list[Server], path: str, coding: str, seconds: int
) -> tuple[float, float, float, float]:
    """CPU ms per response, responses per second, p50 and p99 of the probe in ms."""
    accept = f"--header=Accept-Encoding: {coding}"
    command = meter.wrk_command(server, path, seconds, accept, clients=CLIENTS)
    before, waits = meter.cpu_seconds(*measured), []
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as wrk:
        while wrk.poll() is None:
            started = time.perf_counter()
            assert server.get("/health/live").status == 200
            waits.append((time.perf_counter() - started) * 1000)
            time.sleep(PROBE_EVERY_SECONDS)
        assert wrk.stdout
        report = meter.read(wrk.stdout.read())
    spent = meter.cpu_seconds(*measured) - before
    waits.sort()
    p50, p99 = (waits[int(len(waits) * share)] for share in (0.5, 0.99))
    return spent / report.answered * 1000, report.per_second, p50, p99


if __name__ == "__main__":
    main()
