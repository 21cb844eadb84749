"""What gunicorn's master holds when it forks: a worker that inherited more would share it."""

import os
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from .harness.project import Project
from .harness.server import Server, serve

pytestmark = pytest.mark.parametrize("target", ["vm"], indirect=True, scope="session")


@pytest.fixture(scope="module")
def master(project: Project, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """The master, which has loaded the application and forked two workers."""
    log = tmp_path_factory.mktemp("preload") / "log"
    with serve(project, log, env={"WEB_CONCURRENCY": "2"}) as server:
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
    others = [name for name in opened if not re.fullmatch(expected, name)]
    assert len(others) == 1, opened
    assert others[0].startswith("socket:"), opened


def test_its_workers_share_what_it_has_loaded(master: Server) -> None:
    """Frozen, the objects stay on the pages of the master: most of a worker is not its own."""
    pid = master.process.pid
    workers = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()

    for worker in workers:
        memory = Path(f"/proc/{worker}/smaps_rollup").read_text()
        kib = {name: int(size) for name, size in re.findall(r"^(\w+): +(\d+) kB$", memory, re.M)}
        own = kib["Private_Clean"] + kib["Private_Dirty"]
        assert own < kib["Rss"] / 2, kib
    assert len(workers) == 2
