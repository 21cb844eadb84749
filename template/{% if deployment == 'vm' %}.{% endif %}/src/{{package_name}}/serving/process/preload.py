"""Check that the application has not opened unsafe resources on import, before the fork.

Workers would share its connections and read each other's responses. Its threads do not exist in the
workers, and its processes end with the first worker that exits.
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

# Not datagram sockets (syslog, statsd), which processes can share: each message is sent whole.
STREAMS = (socket.SOCK_STREAM, socket.SOCK_SEQPACKET)
# jemalloc restarts its threads in a forked process.
FORK_SAFE = ("jemalloc_bg_thd",)
# Kernel event queues: only one of the processes receives each event.
QUEUES = ("eventpoll", "inotify", "io_uring")
# The resource tracker of multiprocessing and joblib: it accepts messages from any process.
TRACKER = "resource_tracker import main"


def check(allowed: Sequence[str] = ()) -> None:
    """Exit with status 3 and one line if the application has opened anything not `allowed`.

    `allowed` contains patterns of addresses (`10.0.0.5:6379`, a path) and of names.
    """
    opened = {f"connection {peer}": peer for peer in connections()}
    opened |= {f"thread {name}": name for name in threads()}
    opened |= {f"process {name}": name for name in processes()}
    opened |= {f"descriptor {name}": name for name in queues()}
    allowed = [*FORK_SAFE, *allowed]
    unsafe = [label for label, name in opened.items() if not is_allowed(name, allowed)]
    if unsafe:
        print(
            f"Opened on import, before the fork of the workers: {', '.join(unsafe)}:"
            " open it in the lifespan, or name what is safe in allowed_before_fork"
            " of gunicorn.conf.py",
            file=sys.stderr,
            flush=True,
        )
        SLOTS.close()
        os._exit(STARTUP_FAILURE)  # not SystemExit, which waits for the threads


def is_allowed(name: str, allowed: Sequence[str]) -> bool:
    """Return whether a name matches one of the patterns."""
    return any(name == pattern or fnmatchcase(name, pattern) for pattern in allowed)


def connections() -> Iterator[str]:
    """Yield the peer of each connection that this process has opened."""
    standard = sockets((0, 1, 2)).values()
    for file, inode in sockets(map(int, os.listdir("/dev/fd"))).items():
        if inode not in standard:
            with socket.socket(fileno=os.dup(file)) as opened, suppress(OSError):
                peer = opened.getpeername()  # raises for a listening or unconnected socket
                is_inherited = opened.family == socket.AF_UNIX and inode in SOCKETS_BEFORE
                if opened.type in STREAMS and not is_inherited:
                    yield address(peer)


def sockets(files: Iterable[int]) -> dict[int, int]:
    """Return the inode of each of these file descriptors that is a socket."""
    inodes = {}
    for file in files:
        with suppress(OSError):
            if stat.S_ISSOCK((status := os.fstat(file)).st_mode):
                inodes[file] = status.st_ino
    return inodes


def address(peer: object) -> str:
    """Return the address of a peer as text."""
    match peer:
        case (str(host), int(port), *rest):
            return f"[{host}]:{port}" if rest else f"{host}:{port}"
        case str(path) if path:
            return path
        case bytes(name) if name:
            return name.decode(errors="backslashreplace").replace("\0", "@")
    return "within this process"  # such as the socket pair of an event loop


def threads() -> Iterator[str]:
    """Yield the name of each thread except the main one.

    Native threads only if they have a name: those of numpy's libraries have none, and are safe to
    fork.
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
    """Yield the name of each running process that the application has started."""
    names = {process.pid: process.name for process in multiprocessing.active_children()}
    for child in children() - CHILDREN_BEFORE:
        with suppress(OSError):
            command = Path(f"/proc/{child}/cmdline").read_text(errors="replace")
            if command and TRACKER not in command:  # empty if it has ended
                yield names.get(child) or Path(command.split("\0")[0]).name


def children() -> set[int]:
    """Return the IDs of this process's children; outside Linux, an empty set."""
    ids = set()
    for task in Path("/proc/self/task").glob("*/children"):
        with suppress(OSError):
            ids |= set(map(int, task.read_text().split()))
    return ids


def queues() -> Iterator[str]:
    """Yield the kind of each file descriptor that is a kernel event queue."""
    for file in os.listdir("/dev/fd"):
        with suppress(OSError):  # not a link outside Linux
            kind = os.readlink(f"/dev/fd/{file}").removeprefix("anon_inode:").strip("[]")
            if kind in QUEUES:
                yield kind


# When gunicorn reads its configuration: sockets inherited from a supervisor, and processes that a
# container's entrypoint has started.
SOCKETS_BEFORE = frozenset(sockets(map(int, os.listdir("/dev/fd"))).values())
CHILDREN_BEFORE = frozenset(children())
