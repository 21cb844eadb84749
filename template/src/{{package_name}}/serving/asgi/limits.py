"""Limits of a process: host names, concurrency, body size, deadlines."""

import asyncio
import re
from collections.abc import Mapping
from weakref import WeakKeyDictionary

from fastapi import HTTPException
from starlette.types import Scope

from ..lifecycle.health import PATHS
from ..settings import ServingSettings
from .deadlines import Deadlines

# RFC 9112, 3.2: a name or an address, and a port.
HOST = re.compile(r"(\[[0-9a-f:.]+\]|[a-z0-9._-]+)(?::[0-9]*)?", re.IGNORECASE)


class Limits:
    """The limits of this process, and its current numbers of requests and WebSockets."""

    def __init__(self, settings: ServingSettings) -> None:
        self.in_flight = 0
        self.websockets_open = 0
        self.max_concurrency = settings.max_concurrency
        self.max_body_bytes = settings.max_body_bytes
        self.timeout = settings.request_timeout_seconds
        self._current: Deadlines | None = None
        self._deadlines: WeakKeyDictionary[asyncio.AbstractEventLoop, Deadlines] = (
            WeakKeyDictionary()
        )
        self._hosts = frozenset(settings.allowed_hosts)
        self._domains = tuple(host[1:] for host in self._hosts if host.startswith("*."))
        self._any_host = "*" in self._hosts

    @property
    def deadlines(self) -> Deadlines:
        """The deadlines of the running event loop; tests may run several loops in threads."""
        loop, current = asyncio.get_running_loop(), self._current
        if current is None or current.loop is not loop:
            current = self._current = self._deadlines.setdefault(loop, Deadlines(self.timeout))
        return current

    def refusal(self, scope: Scope, headers: Mapping[bytes, bytes]) -> HTTPException | None:
        """Return the error with which to refuse a request or handshake, or None to accept it.

        Health checks are exempt: they have no host name, and matter most under load. Preflight
        requests are exempt from the concurrency limit: a browser would report a refusal as a CORS
        error.
        """
        count = self.websockets_open if scope["type"] == "websocket" else self.in_flight
        is_full = count > self.max_concurrency
        if (self._any_host and not is_full) or is_health(scope):
            return None
        if is_full and not is_preflight(scope, headers):
            return HTTPException(503, "Too many requests at once", headers={"Retry-After": "1"})
        if not self._any_host and not self._is_allowed(headers.get(b"host", b"").decode("latin-1")):
            return HTTPException(400, "Unknown host name")
        return None

    def _is_allowed(self, header: str) -> bool:
        match = HOST.fullmatch(header)
        host = match[1].lower() if match else ""
        return host in self._hosts or (bool(self._domains) and host.endswith(self._domains))


def is_health(scope: Scope) -> bool:
    """Return whether a request is a health check, with or without the path prefix of a proxy."""
    path: str = scope["path"]
    return path.removeprefix(scope.get("root_path", "")) in PATHS


def is_preflight(scope: Scope, headers: Mapping[bytes, bytes]) -> bool:
    """Return whether a request is a CORS preflight."""
    names = (b"origin", b"access-control-request-method")
    return scope.get("method") == "OPTIONS" and all(name in headers for name in names)
