"""What a request may take: how many at once, how large, how long, and for which host."""

import asyncio
from collections.abc import Callable, Mapping
from time import perf_counter
from typing import Any

from starlette.exceptions import HTTPException
from starlette.responses import Response
from starlette.types import Message, Receive, Scope

from .errors import problem
from .health import PATHS
from .settings import ServingSettings


class Limits:
    """The limits of this process, and what is in flight."""

    def __init__(self, settings: ServingSettings) -> None:
        self.in_flight = 0
        self.most_at_once = settings.max_concurrency
        self._most_bytes = settings.max_body_bytes
        self._hosts = frozenset(settings.allowed_hosts)
        self._any_host = "*" in self._hosts
        self.deadlines = Deadlines(settings.request_timeout_seconds)

    def refusal(self, scope: Scope, headers: Mapping[bytes, bytes]) -> Response | None:
        """The answer to a request that is not to reach the application.

        Health checks come from those who know no host's name, and most of all when it is busy.
        """
        length = headers.get(b"content-length")
        if length is not None and int(length) > self._most_bytes:
            # Closed, or the client would go on sending.
            return problem(413, headers={"Connection": "close"})
        if self.in_flight > self.most_at_once and not is_health(scope):
            return problem(503, "Too many requests at once", headers={"Retry-After": "1"})
        if not self._any_host and not self._allows(headers) and not is_health(scope):
            return problem(400, "No such host")
        return None

    def bounded(self, receive: Receive, answering: Callable[[], bool]) -> Receive:
        """`receive`, for a body whose length only its end tells.

        Too much of it is a 413; to what is `answering` already, the client is as good as gone.
        """
        left = self._most_bytes

        async def receive_bounded() -> Message:
            nonlocal left
            message = await receive()
            left -= len(message.get("body", b""))
            if left < 0 and answering():
                return {"type": "http.disconnect"}
            if left < 0:
                raise HTTPException(413, headers={"Connection": "close"})
            return message

        return receive_bounded

    def _allows(self, headers: Mapping[bytes, bytes]) -> bool:
        host = headers.get(b"host", b"").decode("latin-1").lower()
        host = host.partition("]")[0] + "]" if host.startswith("[") else host.partition(":")[0]
        _, dot, domain = host.partition(".")
        return host in self._hosts or f"*{dot}{domain}" in self._hosts


def is_health(scope: Scope) -> bool:
    """Whether it is a health check."""
    path: str = scope["path"]
    return path.removeprefix(scope.get("root_path", "")) in PATHS


class Deadlines:
    """Cancels what has not begun to answer within some seconds; what has may take its time.

    One timer is enough for all: who came first is due first.
    """

    def __init__(self, seconds: float) -> None:
        self._seconds = seconds
        self._due: dict[asyncio.Task[Any], float] = {}
        self._late: set[asyncio.Task[Any]] = set()
        self._timer: asyncio.TimerHandle | None = None
        self._loop: asyncio.AbstractEventLoop | None = None

    def begin(self, task: asyncio.Task[Any], now: float) -> None:
        """Count from `now`, of `perf_counter()`, on."""
        loop = task.get_loop()
        if loop is not self._loop:  # the first request, or another test client
            self._loop, self._timer = loop, None
            self._due.clear()
        self._due[task] = now + self._seconds
        if self._timer is None:
            self._timer = loop.call_later(self._seconds, self._expire)

    def end(self, task: asyncio.Task[Any]) -> None:
        """It has answered, or is over."""
        self._due.pop(task, None)
        if self._late:
            self._late.discard(task)

    def missed(self, task: asyncio.Task[Any]) -> bool:
        """Whether it was cancelled here; says so once."""
        late = task in self._late
        self._late.discard(task)
        return late

    def _expire(self) -> None:
        self._timer = None
        for task, due in list(self._due.items()):
            left = due - perf_counter()
            if left > 0:
                self._timer = asyncio.get_running_loop().call_later(left, self._expire)
                return
            del self._due[task]
            self._late.add(task)
            task.cancel()
