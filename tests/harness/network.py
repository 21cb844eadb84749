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
    """A connection to a port of the namespace's own loopback; raises `OSError`.

    It comes from `source`, any address of that loopback; to another `host`, from the address that
    the namespace's routes say. A small `receive_buffer` leaves most of a response with its
    sender.
    """
    with _inside(namespace):
        client = socket.socket()
    if receive_buffer is not None:
        client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_buffer)
    client.settimeout(10)
    try:
        if host == LOOPBACK:
            client.bind((source, 0))
        client.connect((host, port))
    except OSError:
        client.close()
        raise
    return client


@contextmanager
def _inside(namespace: Path) -> Iterator[None]:
    """A socket made in the block belongs to the namespace for good."""
    with OWN.open() as home, namespace.open() as other:
        _enter(other.fileno())
        try:
            yield
        finally:
            _enter(home.fileno())


def _enter(namespace: int) -> None:
    """Move the calling thread, and no other: `os.setns` comes with Python 3.12."""
    if libc.setns(namespace, CLONE_NEWNET):
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))
