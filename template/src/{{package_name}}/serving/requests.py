"""One pass over each request: who it is, whether it may, how long it took, what is said of it."""

import asyncio
from collections.abc import Awaitable
from datetime import UTC, datetime
from time import perf_counter
from typing import Any

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from . import headers, request_id
from .errors import problem
from .limits import Limits
from .logs import Log
from .metrics import Outcomes

# Around everything else, so that no answer is without its headers and its line. All of it is in
# one pair of functions: each more that wraps `send` costs more than what it does.


class Requests:
    """Around the whole application: identifies, limits, measures and logs each request."""

    def __init__(self, app: ASGIApp, *, limits: Limits, log: Log, outcomes: Outcomes) -> None:
        self.app = app
        self.limits = limits
        self.log = log
        self.outcomes = outcomes

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return

        start = perf_counter()
        task: asyncio.Task[Any] = asyncio.current_task()  # type: ignore[assignment]
        limits, deadlines = self.limits, self.limits.deadlines
        sent = dict(reversed(scope["headers"]))  # the first of a name wins, as for Starlette
        ids = request_id.identify(scope, sent)
        status = size = 0
        finished = False

        def finish() -> None:
            nonlocal finished
            finished = True
            seconds = perf_counter() - start
            outcome = self.outcomes.of(scope, status or 500)
            outcome.observe(seconds)
            if outcome.level:
                client = scope["client"]
                self.log.write_soon(
                    {
                        "timestamp": datetime.now(UTC),
                        "level": outcome.level,
                        "logger": __name__,
                        "event": "request",
                        "method": outcome.method,
                        "route": outcome.route,
                        "status": outcome.status,
                        "duration_ms": round(seconds * 1000, 3),
                        "bytes": size,
                        "client": client[0] if client else None,
                        **ids,
                    }
                )

        def send_and_note(message: Message) -> Awaitable[None]:
            nonlocal status, size
            if message["type"] == "http.response.start":
                status = message["status"]
                deadlines.end(task)
                message = headers.completed(message, ids["request_id"])
            elif message["type"] == "http.response.body":
                size += len(message.get("body", b""))
                if not message.get("more_body", False) and not finished:
                    finish()
            return send(message)

        limits.in_flight += 1
        deadlines.begin(task, start)
        try:
            app = limits.refusal(scope, sent) or self.app
            await app(scope, limits.bounded(receive, sent, lambda: status > 0), send_and_note)
        except BaseException:
            if status or not deadlines.missed(task):
                raise  # uvicorn logs it
            task.uncancel()
            await problem(504)(scope, receive, send_and_note)
        finally:
            limits.in_flight -= 1
            deadlines.end(task)
            if not finished:
                finish()
