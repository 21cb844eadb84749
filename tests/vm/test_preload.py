"""Resources of gunicorn's master at the fork, and refused starts."""

import json
import os
import re
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest

from ..harness import stores
from ..harness.project import Project
from ..harness.server import START_SECONDS, Server, free_port, launch, serve

# A route that returns the importing process, and the number of objects exempt from collection.
PRELOADED = """
import gc
import os

from {package}.app import create_app

app = create_app()
imported_by = os.getpid()


@app.get("/preloaded")
async def preloaded() -> dict[str, int]:
    frozen = gc.get_freeze_count()
    return {{"imported_by": imported_by, "served_by": os.getpid(), "frozen": frozen}}
"""

pytestmark = pytest.mark.parametrize("target", ["vm"], indirect=True, scope="session")


@pytest.fixture(scope="module")
def master(project: Project, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """The master, which has loaded the application and forked two workers."""
    directory = tmp_path_factory.mktemp("preload")
    (directory / "preloaded.py").write_text(PRELOADED.format(package=project.package))
    env = {"WEB_CONCURRENCY": "2", "PYTHONPATH": str(directory)}
    with serve(project, directory / "log", "preloaded:app", env) as server:
        yield server


def test_master_has_no_second_thread(master: Server) -> None:
    """A thread does not survive a fork, but a lock that it holds does."""
    tasks = os.listdir(f"/proc/{master.process.pid}/task")

    assert tasks == [str(master.process.pid)]


def test_master_has_no_connection_and_no_event_loop(master: Server) -> None:
    """The listener is the only socket; an event loop would have opened an epoll descriptor."""
    pid = master.process.pid
    opened = [os.readlink(file) for file in Path(f"/proc/{pid}/fd").iterdir()]

    expected = r"/dev/(null|urandom)|pipe:.*|/dev/shm/(wgunicorn|metrics)-.*|"
    expected += re.escape(str(master.log_file))
    expected += r"|/memfd:output-lock \(deleted\)"
    others = [name for name in opened if not re.fullmatch(expected, name)]
    assert len(others) == 1, opened
    assert others[0].startswith("socket:"), opened


def test_workers_share_memory_of_the_master(master: Server) -> None:
    """The application is imported before the fork, and exempt from garbage collection."""
    response = json.loads(master.get("/preloaded").body)

    assert response["imported_by"] == master.process.pid
    assert response["served_by"] != master.process.pid
    assert response["frozen"] > 10_000


# ── Refused starts ────────────────────────────────────────────────────────────────────────────

LIBRARIES = (
    *("asyncpg", "confluent-kafka", "numpy", "opentelemetry-sdk", "psycopg[binary]", "redis"),
    *("sentry-sdk", "sqlalchemy[asyncio]"),
)

APPLICATION = """
import asyncio
import logging.handlers
import multiprocessing
import socket
import subprocess
import threading

from {package}.app import create_app

POSTGRESQL = "{host}:{port}/postgres?user=postgres"
REDIS = "{redis}"
{opened}
app = create_app()
"""

CONFIGURATION = """
exec(open("deploy/vm/gunicorn.conf.py").read())
allowed_before_fork = {allowed!r}
"""

SYNC = """
import sqlalchemy
engine = sqlalchemy.create_engine(f"postgresql+psycopg://{POSTGRESQL}")
"""
SYNC_OVER_A_UNIX_SOCKET = """
import sqlalchemy
engine = sqlalchemy.create_engine("postgresql+psycopg://postgres@/postgres?host={directory}&port={port}")
"""
ASYNC = """
from sqlalchemy import text
from sqlalchemy.ext.asyncio import create_async_engine
engine = create_async_engine(f"postgresql+asyncpg://{POSTGRESQL}")

async def ask():
    async with engine.connect() as connection:
        await connection.execute(text("SELECT 1"))
"""
REDIS = """
import redis
client = redis.Redis.from_url(REDIS)
"""
THREAD = """
stop = threading.Event()
poller = threading.Thread(target=stop.wait, name="poller", daemon=True)
poller.start()
"""
SENTRY = """
import sentry_sdk
sentry_sdk.init(dsn="http://key@127.0.0.1:9/1", traces_sample_rate=1.0)
"""
SPANS = """
from opentelemetry.sdk.trace.export import BatchSpanProcessor, ConsoleSpanExporter
processor = BatchSpanProcessor(ConsoleSpanExporter())
"""
KAFKA = """
import confluent_kafka
producer = confluent_kafka.Producer({"bootstrap.servers": "127.0.0.1:1"})
"""

HELPER = """
helper = subprocess.Popen(["cat"], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
"""
OF_A_C_LIBRARY = """
peer = socket.socket(socket.AF_UNIX)
peer.connect("{directory}/.s.PGSQL.{port}")
peer.set_inheritable(True)
"""
ENDED = """
ended = subprocess.Popen(["true"], stdout=subprocess.PIPE)
ended.stdout.read()
"""
INOTIFY = """
import ctypes
watch = ctypes.CDLL(None).inotify_init()
"""

REFUSED = {
    "a query": (f"{SYNC}engine.connect().close()", "connection 127.0.0.1:{port}"),
    "a query over a unix socket": (
        f"{SYNC_OVER_A_UNIX_SOCKET}engine.connect().close()",
        "connection {directory}/.s.PGSQL.{port}",
    ),
    "a connection that a program it starts would inherit": (
        OF_A_C_LIBRARY,
        "connection {directory}/.s.PGSQL.{port}",
    ),
    "an asynchronous query": (f"{ASYNC}asyncio.run(ask())", "connection 127.0.0.1:{port}"),
    "a ping of Redis": (f"{REDIS}client.ping()", "connection 127.0.0.1:{redis_port}"),
    "a thread": (THREAD, "thread poller"),
    "a thread that Python would wait for": (
        THREAD.replace("daemon=True", "daemon=False"),
        "thread poller",
    ),
    "a thread and a ping of Redis": (
        f"{REDIS}client.ping()\n{THREAD}",
        "connection 127.0.0.1:{redis_port}, thread poller",
    ),
    "an event to Sentry": (
        f"{SENTRY}sentry_sdk.capture_message('started')",
        "thread sentry-sdk.BackgroundWorker",
    ),
    "an exporter of spans": (SPANS, "thread OtelBatchSpanRecordProcessor"),
    "threads of a C library": (KAFKA, "thread rdk:main"),
    "an event loop": ("loop = asyncio.new_event_loop()", "connection within this process"),
    "an event loop of uvloop": ("import uvloop\nloop = uvloop.new_event_loop()", "descriptor"),
    "a watch on files": (INOTIFY, "descriptor inotify"),
    "a process behind pipes": (HELPER, "process cat"),
    "a process of multiprocessing": (
        "manager = multiprocessing.get_context('fork').Manager()",
        "process SyncManager-1",
    ),
}
ACCEPTED = {
    "nothing": "",
    "an engine": SYNC,
    "an engine that is disposed of": f"{SYNC}engine.connect().close()\nengine.dispose()",
    "an asynchronous engine": ASYNC,
    "a client of Redis": REDIS,
    "a thread that has ended": f"{THREAD}stop.set()\npoller.join()",
    "Sentry": SENTRY,
    "numpy, whose library has threads": "import numpy\nnumpy.ones((900, 900)) @ numpy.ones(900)",
    "an event loop that is closed": "asyncio.run(asyncio.sleep(0))",
    "a process that has ended": ENDED,
    "the resource tracker of multiprocessing": (
        "from multiprocessing.resource_tracker import ensure_running\nensure_running()"
    ),
    "syslog over UDP": "handler = logging.handlers.SysLogHandler(('127.0.0.1', 9))",
    "a socket that listens": "listener = socket.create_server(('127.0.0.1', 0))",
    "a UDP socket with a peer": (
        "peer = socket.socket(type=socket.SOCK_DGRAM)\npeer.connect(('127.0.0.1', 9))"
    ),
}


@dataclass(frozen=True)
class Stores:
    """PostgreSQL and Redis, and a Python path with their clients."""

    postgresql: stores.PostgreSQL
    redis_port: int
    libraries: Path

    def fill_in(self, text: str, **more: str) -> str:
        """Return the text with the addresses of the servers filled in."""
        values = {
            "host": "127.0.0.1",
            "port": str(self.postgresql.port),
            "directory": str(self.postgresql.directory),
            "redis": f"redis://127.0.0.1:{self.redis_port}",
            "redis_port": str(self.redis_port),
            **more,
        }
        for name, value in values.items():
            text = text.replace(f"{{{name}}}", value)
        return text


@pytest.fixture(scope="module")
def running(project: Project, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stores]:
    if missing := stores.missing_tools():
        pytest.skip(f"no stores without {', '.join(missing)}")
    libraries = tmp_path_factory.mktemp("libraries")
    python = project.program("python")
    project.uv(
        *("pip", "install", "--quiet", "--python", python, "--target", str(libraries), *LIBRARIES)
    )
    with stores.postgresql() as postgresql, stores.redis() as redis_port:
        yield Stores(postgresql, redis_port, libraries)


@contextmanager
def started(
    project: Project, running: Stores, directory: Path, opened: str, allowed: tuple[str, ...] = ()
) -> Iterator[Server]:
    """gunicorn with an application that opens something on import."""
    application = running.fill_in(APPLICATION, package=project.package, opened=opened)
    (directory / "opened.py").write_text(running.fill_in(application))
    (directory / "gunicorn.conf.py").write_text(CONFIGURATION.format(allowed=allowed))
    port = free_port()
    env = {
        "BIND": f"127.0.0.1:{port}",
        "ENVIRONMENT": "production",
        "METRICS_PORT": "0",
        "PYTHONPATH": f"{directory}:{running.libraries}",
        "WEB_CONCURRENCY": "2",
    }
    command = [project.program("gunicorn"), "--config", f"{directory}/gunicorn.conf.py"]
    with launch(project, [*command, "opened:app"], directory / "log", port, env) as server:
        yield server


@pytest.mark.parametrize("what", REFUSED)
def test_connection_or_thread_on_import_prevents_the_start(
    project: Project, running: Stores, tmp_path: Path, what: str
) -> None:
    opened, named = REFUSED[what]

    with started(project, running, tmp_path, opened) as server:
        code = server.process.wait(START_SECONDS)

    # librdkafka's log lines start with a percent sign.
    lines = [line for line in server.log.splitlines() if not line.startswith(("{", "%"))]
    assert (code, len(lines)) == (3, 1), server.log
    [line] = lines
    assert line.startswith(
        f"Opened on import, before the fork of the workers: {running.fill_in(named)}"
    )
    assert line.endswith(
        ": open it in the lifespan, or name what is safe in allowed_before_fork of gunicorn.conf.py"
    )
    assert "Listening at" not in server.log
    assert "Booting worker" not in server.log


@pytest.mark.parametrize("what", ACCEPTED)
def test_fork_safe_objects_on_import_do_not_prevent_the_start(
    project: Project, running: Stores, tmp_path: Path, what: str
) -> None:
    with started(project, running, tmp_path, ACCEPTED[what]) as server:
        server.wait_until_ready()


@pytest.mark.parametrize(
    ("opened", "allowed"),
    [
        (THREAD, ("poller",)),
        (f"{SENTRY}sentry_sdk.capture_message('started')", ("sentry-sdk.*",)),
        (f"{REDIS}client.ping()\n{THREAD}", ("127.0.0.1:*", "poll*")),
        (f"{HELPER}{INOTIFY}", ("cat", "inotify")),
    ],
)
def test_allowed_names_do_not_prevent_the_start(
    project: Project, running: Stores, tmp_path: Path, opened: str, allowed: tuple[str, ...]
) -> None:
    with started(project, running, tmp_path, opened, allowed) as server:
        server.wait_until_ready()


def test_allowed_names_do_not_allow_others(
    project: Project, running: Stores, tmp_path: Path
) -> None:
    opened = f"{REDIS}client.ping()\n{THREAD}"

    with started(project, running, tmp_path, opened, ("poller",)) as server:
        assert server.process.wait(START_SECONDS) == 3

    assert f": connection 127.0.0.1:{running.redis_port}: open" in server.log


ON_A_SOCKET = """
import os, socket, sys
journal = socket.socket(socket.AF_UNIX)
journal.connect(sys.argv[1])
for stream in (1, 2):
    os.dup2(journal.fileno(), stream)
os.execv(sys.argv[2], sys.argv[2:])
"""


def test_socket_as_standard_output_does_not_prevent_the_start(
    project: Project, tmp_path: Path
) -> None:
    """The journal's stdout is a socket."""
    port = free_port()
    env = {"BIND": f"127.0.0.1:{port}", "METRICS_PORT": "0", "WEB_CONCURRENCY": "1"}
    command = [project.program("python"), "-c", ON_A_SOCKET, str(tmp_path / "journal")]
    command += [project.program("gunicorn"), "--config", "deploy/vm/gunicorn.conf.py"]
    with socket.socket(socket.AF_UNIX) as journal:
        journal.bind(str(tmp_path / "journal"))
        journal.listen()

        with launch(project, command, tmp_path / "log", port, env) as server:
            server.wait_until_ready()
            assert b"Starting gunicorn" in journal.accept()[0].recv(2**16)


OF_AN_ENTRYPOINT = """
import os, socket, subprocess, sys
subprocess.Popen(["sleep", "600"])
for end in (pair := socket.socketpair()):
    end.set_inheritable(True)
os.execv(sys.argv[1], sys.argv[1:])
"""


def test_files_and_processes_of_an_entrypoint_do_not_prevent_the_start(
    project: Project, tmp_path: Path
) -> None:
    port = free_port()
    env = {"BIND": f"127.0.0.1:{port}", "METRICS_PORT": "0", "WEB_CONCURRENCY": "1"}
    command = [project.program("python"), "-c", OF_AN_ENTRYPOINT]
    command += [project.program("gunicorn"), "--config", "deploy/vm/gunicorn.conf.py"]

    with launch(project, command, tmp_path / "log", port, env) as server:
        server.wait_until_ready()
