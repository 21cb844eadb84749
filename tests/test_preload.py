"""What gunicorn's master holds when it forks: a worker that inherited more would share it."""

import json
import os
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from .harness.project import Project
from .harness.server import Server, serve

# A route that says which process has imported the application, and what the collector passes over.
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


def test_it_has_no_thread(master: Server) -> None:
    """A thread does not survive a fork; a lock that it held does."""
    tasks = os.listdir(f"/proc/{master.process.pid}/task")

    assert tasks == [str(master.process.pid)]


def test_it_has_no_connection_and_no_loop(master: Server) -> None:
    """Of sockets, the listener alone; uvloop and asyncio would poll with an epoll."""
    pid = master.process.pid
    opened = [os.readlink(file) for file in Path(f"/proc/{pid}/fd").iterdir()]

    expected = r"/dev/(null|urandom)|pipe:.*|/dev/shm/(wgunicorn|metrics)-.*|"
    expected += re.escape(str(master.log_file))
    expected += r"|/memfd:output-lock \(deleted\)"
    others = [name for name in opened if not re.fullmatch(expected, name)]
    assert len(others) == 1, opened
    assert others[0].startswith("socket:"), opened


def test_its_workers_share_what_it_has_loaded(master: Server) -> None:
    """Imported before the fork, and kept from the collector, which would write to its pages."""
    told = json.loads(master.get("/preloaded").body)

    assert told["imported_by"] == master.process.pid
    assert told["served_by"] != master.process.pid
    assert told["frozen"] > 10_000
