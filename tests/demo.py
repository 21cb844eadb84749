"""`make demo`: render both targets, run each on its server, print the responses."""

import gzip
import os
import re
import shutil
import signal
import sys
import time
import tomllib
import traceback
import warnings
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path

from .harness.project import UV, Project
from .harness.server import HttpResponse, Server, launch, serve, start_command
from .harness.template import ROOT, TARGETS, render, snapshot

DIRECTORY = ROOT / "build/demo"
"""The default directory to clear and render into; another one must be new or empty."""

SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
RUNS_ON = re.compile(r"Runs on event loop ([\w.]+), HTTP parser ([\w.]+)")
STARTED = time.monotonic()


class DemoError(Exception):
    """A failure, in one line."""


def main() -> int:
    """Run the demo; return the exit code."""
    for number in SIGNALS:
        signal.signal(number, stop)
    warnings.simplefilter("ignore")  # Copier's, about a shallow clone
    directory = Path(sys.argv[1]).absolute() if len(sys.argv) > 1 else DIRECTORY
    try:
        if directory == DIRECTORY and directory.exists():
            shutil.rmtree(directory)
        directory.mkdir(parents=True, exist_ok=True)
        if any(directory.iterdir()):
            raise DemoError(f"{directory} is not empty")
        table = {target: show(project) for target, project in projects(directory).items()}
    except DemoError as failure:
        print(f"The demo failed: {failure}", file=sys.stderr)
        return 1
    except Exception as failure:
        details = directory / "failure.txt"
        with suppress(OSError):
            details.write_text(traceback.format_exc())
        more = f"all of it is in {os.path.relpath(details)}"
        print(f"The demo failed: {one_line(failure)}; {more}", file=sys.stderr)
        return 1
    except SystemExit:
        print("Interrupted: all servers are stopped", file=sys.stderr)
        raise
    print(f"\n{aligned(table)}\n")
    places = " and ".join(os.path.relpath(directory / target) for target in TARGETS)
    yours = f".venv/bin/copier copy {ROOT} ../my-service"
    print(f"The services are in {places}, each with a README.md; your own: {yours}")
    return 0


def projects(directory: Path) -> dict[str, Project]:
    """Render each target and install its dependencies, all at the same time."""
    step("rendering both targets")
    settings = directory / "settings.yml"
    settings.write_text("{}\n")
    os.environ["COPIER_SETTINGS_PATH"] = str(
        settings
    )  # the user's settings could change the answers
    template = snapshot(directory / "template")
    rendered = {target: Project(directory / target) for target in TARGETS}
    for target, project in rendered.items():
        render(template, project.path, {"project_name": "Orders API", "deployment": target})

    step("installing their dependencies")
    with ExitStack() as running:
        syncs = []
        for project in rendered.values():
            log = project.path.with_suffix(".sync.log")
            with undisturbed():
                sync = running.enter_context(launch(project, [UV, "sync", "--quiet"], log, port=0))
            syncs.append(sync)
        for sync in syncs:
            if sync.process.wait() != 0:
                raise RuntimeError(f"uv sync: {sync.log}")
    return rendered


def show(project: Project) -> dict[str, str]:
    """Run a project's own server, and return its responses."""
    target = project.path.name
    server_name = describe_server(project)
    step(f"{target}: starting {server_name}")
    with ExitStack() as running:
        with undisturbed():
            server = running.enter_context(serve(project, project.path.with_suffix(".log")))
        step(f"{target}: asking it")
        live, ready = request(server, "/health/live"), request(server, "/health/ready")
        plain = request(server, "/large-response?size_kb=900")
        packed = request(server, "/large-response?size_kb=900", **{"Accept-Encoding": "gzip"})
        if packed.headers.get("content-encoding") != "gzip":
            raise DemoError(f"{target}: /large-response is not compressed when asked to be")
        if gzip.decompress(packed.body) != plain.body:
            raise DemoError(f"{target}: /large-response is another one when it is compressed")
        workers = runtimes(server)
        step(f"{target}: stopping it")
        if (code := server.stop()) not in (0, -signal.SIGTERM):
            raise RuntimeError(f"{target}: exit {code} on SIGTERM:\n{server.log}")
    loops, parsers = zip(*workers, strict=True)
    return {
        "server": server_name,
        "event loop": ", ".join(sorted(set(loops))),
        "parser": ", ".join(sorted(set(parsers))),
        "workers": str(len(workers)),
        "health": f"live {live.status}, ready {ready.status}",
        "bytes plain": f"{len(plain.body):,}",
        "bytes compressed": f"{len(packed.body):,}",
        "ratio": f"{len(plain.body) / len(packed.body):.1f}",
    }


def describe_server(project: Project) -> str:
    """Return the name and version of the project's server."""
    lock = tomllib.loads((project.path / "uv.lock").read_text())
    versions = {package["name"]: package.get("version") for package in lock["package"]}
    command, _ = start_command(project, "", 0)
    names = {"gunicorn": ["gunicorn", "uvicorn"]}.get(Path(command[0]).name, ["uvicorn"])
    return " + ".join(f"{name} {versions[name]}" for name in names)


def request(server: Server, path: str, **headers: str) -> HttpResponse:
    """Return a response with status 200."""
    response = server.get(path, **headers)
    if response.status != 200:
        raise DemoError(f"{path} answered {response.status}")
    return response


def runtimes(server: Server) -> list[tuple[str, str]]:
    """Return the event loop and the parser that each worker has logged.

    gunicorn starts its workers at most 0.1 s apart: after half a second without one, all are there.
    """
    server.wait_for_log("Runs on event loop")
    logged: list[tuple[str, str]] = []
    while logged != (now := RUNS_ON.findall(server.log)):
        logged = now
        time.sleep(0.5)
    return logged


def stop(number: int, frame: object = None) -> None:
    """Exit on a signal, which stops all servers; ignore further signals."""
    for other in SIGNALS:
        signal.signal(other, lambda *_: None)  # SIG_IGN would report a pending signal
    sys.exit(128 + number)


@contextmanager
def undisturbed() -> Iterator[None]:
    """Block signals while a process starts, so that it is not left running."""
    held: list[int] = []
    for number in SIGNALS:
        signal.signal(number, lambda number, _: held.append(number))
    try:
        yield
    finally:
        for number in SIGNALS:
            signal.signal(number, stop)
    if held:
        stop(held[0])


def step(what: str) -> None:
    """Print the current step."""
    print(f"{time.monotonic() - STARTED:5.1f} s  {what}", flush=True)


def one_line(failure: Exception) -> str:
    """Return the first line of a failure, and the last one if the first announces a log."""
    output = str(getattr(failure, "stderr", None) or failure)
    lines = [line.strip() for line in output.splitlines() if line.strip()]
    if not lines:
        return type(failure).__name__
    return f"{lines[0]} {lines[-1]}" if lines[0].endswith(":") else lines[0]


def aligned(table: dict[str, dict[str, str]]) -> str:
    """Return a table with a column for each target."""
    labels = next(iter(table.values()))
    rows = [("", *table), *((label, *(row[label] for row in table.values())) for label in labels)]
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return "\n".join("   ".join(map(str.ljust, row, widths)).rstrip() for row in rows)


if __name__ == "__main__":
    sys.exit(main())
