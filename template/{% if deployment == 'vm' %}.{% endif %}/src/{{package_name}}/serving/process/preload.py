"""Check what the application has opened on import, before the workers are forked.

Workers would share its connections, and read each other's responses. Its threads run in none.
"""

import os
import socket
import stat
import sys
import threading
from collections.abc import Iterator, Sequence
from contextlib import suppress
from fnmatch import fnmatchcase
from pathlib import Path

from ..settings import STARTUP_FAILURE
from .slots import SLOTS

# Processes can share datagram sockets (syslog, statsd): each message is sent whole.
STREAMS = (socket.SOCK_STREAM, socket.SOCK_SEQPACKET)
# jemalloc starts its threads again in a new process.
FORK_SAFE = ("jemalloc_bg_thd",)


def check(allowed: Sequence[str] = ()) -> None:
    """End this process with status 3 and a line if it holds a connection or another thread.

    `allowed` has patterns of addresses (`10.0.0.5:6379`, a path) and of names of threads.
    """
    opened = {f"connection {peer}": peer for peer in connections()}
    opened |= {f"thread {name}": name for name in threads()}
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
    inherited = {os.fstat(file).st_ino for file in (0, 1, 2) if is_socket(file)}
    for file in map(int, os.listdir("/dev/fd")):
        if is_socket(file) and os.fstat(file).st_ino not in inherited:
            with socket.socket(fileno=os.dup(file)) as opened, suppress(OSError):
                peer = opened.getpeername()  # raises for one that listens or is not connected
                of_parent = opened.family == socket.AF_UNIX and os.get_inheritable(file)
                if opened.type in STREAMS and not of_parent:
                    yield address(peer)


def is_socket(file: int) -> bool:
    """Tell whether a file descriptor is a socket."""
    with suppress(OSError):
        return stat.S_ISSOCK(os.fstat(file).st_mode)
    return False


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
