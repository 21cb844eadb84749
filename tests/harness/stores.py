"""Empty servers of Debian's PostgreSQL and Redis on the loopback."""

import os
import shutil
import socket
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

from .server import START_SECONDS, free_port

Command = list[str | Path]


@dataclass(frozen=True)
class PostgreSQL:
    """A server with trust authentication."""

    port: int
    directory: Path
    """The directory of its unix socket."""


def missing_tools() -> list[str]:
    """Return what is missing to run both: programs, or `root`."""
    missing = [] if _programs() else ["postgresql"]
    missing += [name for name in ("redis-server", "setpriv") if shutil.which(name) is None]
    return missing if os.geteuid() == 0 else [*missing, "root"]


@contextmanager
def postgresql() -> Iterator[PostgreSQL]:
    """Run PostgreSQL for the block, as the user postgres."""
    user: Command = ["setpriv", "--reuid=postgres", "--regid=postgres", "--clear-groups"]
    programs = _programs()
    assert programs
    with TemporaryDirectory(prefix="postgresql-") as name:
        directory, port = Path(name), free_port()
        shutil.chown(directory, "postgres")
        data = directory / "data"
        initdb: Command = [
            *user,
            programs / "initdb",
            "--auth=trust",
            "--no-sync",
            "--pgdata",
            data,
        ]
        subprocess.run(initdb, check=True, capture_output=True)
        options: Command = ["-D", data, "-p", str(port), "-k", directory, "-c", "fsync=off"]
        with _running([*user, programs / "postgres", *options], port):
            yield PostgreSQL(port, directory)


@contextmanager
def redis() -> Iterator[int]:
    """Run Redis for the block; yield its port."""
    port = free_port()
    with TemporaryDirectory(prefix="redis-") as directory:
        options = ["--port", str(port), "--bind", "127.0.0.1", "--save", "", "--dir", directory]
        with _running(["redis-server", *options], port):
            yield port


def _programs() -> Path | None:
    found = sorted(Path("/usr/lib/postgresql").glob("*/bin"))
    return found[-1] if found else None


@contextmanager
def _running(command: Command, port: int) -> Iterator[None]:
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
    try:
        _wait_until_listening(process, port)
        yield
    finally:
        process.terminate()
        process.communicate()


def _wait_until_listening(process: subprocess.Popen[bytes], port: int) -> None:
    deadline = time.monotonic() + START_SECONDS
    while time.monotonic() < deadline and process.poll() is None:
        with suppress(OSError), socket.create_connection(("127.0.0.1", port), timeout=1):
            return
        time.sleep(0.05)
    raise AssertionError(f"{process.args!r} does not listen")
