"""Sockets in another network namespace."""

import ctypes
import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

LOOPBACK = "127.0.0.1"
OWN = Path("/proc/thread-self/ns/net")
CLONE_NEWNET = 0x40000000

libc = ctypes.CDLL(None, use_errno=True)


def connect(
    port: int,
    namespace: Path = OWN,
    receive_buffer: int | None = None,
    source: str = LOOPBACK,
    host: str = LOOPBACK,
) -> socket.socket:
    """Return a connection to a port of `host` from a network namespace. Raises `OSError`.

    On the loopback its source address is `source`; to another host, that of the route. With a small
    `receive_buffer`, most of a response remains in the sender's buffer.
    """
    with _inside(namespace):
        client = socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET)
    if receive_buffer is not None:
        client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_buffer)
    client.settimeout(60)
    try:
        if host == LOOPBACK:
            client.bind((source, 0))
        client.connect((host, port))
    except OSError:
        client.close()
        raise
    return client


def accepts(port: int, namespace: Path, host: str) -> bool:
    """Return whether a connection from a network namespace to a port of a host is accepted."""
    try:
        connect(port, namespace, host=host).close()
    except OSError:
        return False
    return True


@contextmanager
def _inside(namespace: Path) -> Iterator[None]:
    """Enter a network namespace for the block; sockets created in it belong to it permanently."""
    with OWN.open() as home, namespace.open() as other:
        _enter(other.fileno())
        try:
            yield
        finally:
            _enter(home.fileno())


def _enter(namespace: int) -> None:
    """Move the calling thread to a network namespace; `os.setns` requires Python 3.12."""
    if libc.setns(namespace, CLONE_NEWNET):
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))
