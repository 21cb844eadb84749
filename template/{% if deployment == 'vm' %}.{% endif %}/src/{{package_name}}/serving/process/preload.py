"""Check what the application has opened on import, before the workers are forked.

Workers would share its connections, and read each other's responses. Its threads run in none, and
its processes end with the first worker that ends.
"""

import multiprocessing
import os
import socket
import stat
import sys
import threading
from collections.abc import Iterable, Iterator, Sequence
from contextlib import suppress
from fnmatch import fnmatchcase
from pathlib import Path

from ..settings import STARTUP_FAILURE
from .slots import SLOTS

# Processes can share datagram sockets (syslog, statsd): each message is sent whole.
STREAMS = (socket.SOCK_STREAM, socket.SOCK_SEQPACKET)
# jemalloc starts its threads again in a new process.
FORK_SAFE = ("jemalloc_bg_thd",)
# What one process reads from these, no other gets: sockets of an event loop, changes of files.
QUEUES = ("eventpoll", "inotify", "io_uring")
# Of multiprocessing and joblib: it takes short messages from any process.
TRACKER = "resource_tracker import main"


def check(allowed: Sequence[str] = ()) -> None:
    """End this process with status 3 and a line for what it has opened, if anything.

    `allowed` has patterns of addresses (`10.0.0.5:6379`, a path) and of names.
    """
    opened = {f"connection {peer}": peer for peer in connections()}
    opened |= {f"thread {name}": name for name in threads()}
    opened |= {f"process {name}": name for name in processes()}
    opened |= {f"descriptor {name}": name for name in queues()}
    found = [what for what, name in opened.items() if not is_allowed(name, [*FORK_SAFE, *allowed])]
    if found:
        print(
            f"Opened on import, before the fork of the workers: {', '.join(found)}:"
            " open it in the lifespan, or name what is safe in allowed_before_fork"
            " of gunicorn.conf.py",
            file=sys.stderr,
            flush=True,
        )
        SLOTS.close()
        os._exit(STARTUP_FAILURE)  # not SystemExit, which waits for the threads


def is_allowed(name: str, allowed: Sequence[str]) -> bool:
    """Tell whether a name matches one of the patterns."""
    return any(name == pattern or fnmatchcase(name, pattern) for pattern in allowed)


def connections() -> Iterator[str]:
    """Yield the peer of each connection that this process has opened."""
    standard = sockets((0, 1, 2)).values()
    for file, inode in sockets(map(int, os.listdir("/dev/fd"))).items():
        if inode not in standard:
            with socket.socket(fileno=os.dup(file)) as opened, suppress(OSError):
                peer = opened.getpeername()  # raises for one that listens or is not connected
                of_parent = opened.family == socket.AF_UNIX and inode in SOCKETS_BEFORE
                if opened.type in STREAMS and not of_parent:
                    yield address(peer)


def sockets(files: Iterable[int]) -> dict[int, int]:
    """Return which of these file descriptors are sockets, and their inodes."""
    found = {}
    for file in files:
        with suppress(OSError):
            if stat.S_ISSOCK((status := os.fstat(file)).st_mode):
                found[file] = status.st_ino
    return found


def address(peer: object) -> str:
    """Return the address of a peer as text."""
    match peer:
        case (str(host), int(port), *rest):
            return f"[{host}]:{port}" if rest else f"{host}:{port}"
        case str(path) if path:
            return path
        case bytes(name) if name:
            return name.decode(errors="backslashreplace").replace("\0", "@")
    return "within this process"  # a socket pair, as an event loop has one


def threads() -> Iterator[str]:
    """Yield the name of each thread except the main one.

    Threads that native code has started only if they have a name: the threads of numpy's libraries
    have none, and are safe to fork.
    """
    known = threading.enumerate()
    yield from (thread.name for thread in known if thread is not threading.main_thread())
    if sys.platform == "linux":
        ids = {str(thread.native_id) for thread in known}
        names = {task.name: name_of(task) for task in Path("/proc/self/task").iterdir()}
        for task, name in names.items():
            if task not in ids and name not in (names[str(os.getpid())], ""):
                yield name


def name_of(task: Path) -> str:
    """Return the kernel's name of a thread, or an empty string if it has ended."""
    with suppress(OSError):
        return (task / "comm").read_text().rstrip()
    return ""


def processes() -> Iterator[str]:
    """Yield the name of each process that the application has started and that lives."""
    names = {process.pid: process.name for process in multiprocessing.active_children()}
    for child in children() - CHILDREN_BEFORE:
        with suppress(OSError):
            command = Path(f"/proc/{child}/cmdline").read_text(errors="replace")
            if command and TRACKER not in command:  # one that has ended has none
                yield names.get(child) or Path(command.split("\0")[0]).name


def children() -> set[int]:
    """Return the processes that this one has started; off Linux, where no file tells, none."""
    found = set()
    for task in Path("/proc/self/task").glob("*/children"):
        with suppress(OSError):
            found |= set(map(int, task.read_text().split()))
    return found


def queues() -> Iterator[str]:
    """Yield the kind of each file descriptor that is a queue of the kernel."""
    for file in os.listdir("/dev/fd"):
        with suppress(OSError):  # off Linux it is no link
            kind = os.readlink(f"/dev/fd/{file}").removeprefix("anon_inode:").strip("[]")
            if kind in QUEUES:
                yield kind


# By the time gunicorn reads its configuration: what a supervisor has left open, and what the
# entrypoint of a container has started.
SOCKETS_BEFORE = frozenset(sockets(map(int, os.listdir("/dev/fd"))).values())
CHILDREN_BEFORE = frozenset(children())
