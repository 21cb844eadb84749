"""One pass over each request: who it is, whether it may, how long it took, what is said of it."""

import asyncio
from collections.abc import Awaitable, Callable
from time import perf_counter
from typing import Any

from fastapi import FastAPI
from starlette.middleware.errors import ServerErrorMiddleware
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from . import headers, request_id
from .compression import responder
from .errors import problem
from .limits import Limits
from .outcomes import Outcomes


def install(
    app: FastAPI, lifecycle: Callable[[ASGIApp], ASGIApp], limits: Limits, outcomes: Outcomes
) -> None:
    """Put `Requests` around all middleware of `app`, so that no answer goes without it.

    What is no request goes through `lifecycle`.
    """
    build = app.build_middleware_stack

    def build_and_wrap() -> ASGIApp:
        stack = build()
        if isinstance(stack, ServerErrorMiddleware) and not (stack.handler or stack.debug):
            stack = stack.app  # it would only answer what `Requests` does
        return Requests(stack, lifecycle(stack), limits, outcomes)

    app.build_middleware_stack = build_and_wrap  # type: ignore[method-assign]


class Requests:
    """Identifies, limits, compresses, measures and logs.

    All in one place, since each more that wraps `send` costs more than what it does.
    """

    def __init__(self, app: ASGIApp, others: ASGIApp, limits: Limits, outcomes: Outcomes) -> None:
        self.app = app
        self.others = others
        self.limits = limits
        self.outcomes = outcomes

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.others(scope, receive, send)
            return

        start = perf_counter()
        task: asyncio.Task[Any] = asyncio.current_task()  # type: ignore[assignment]
        limits, deadlines = self.limits, self.limits.deadlines
        sent = dict(reversed(scope["headers"]))  # the first of a name wins, as for Starlette
        ids = request_id.identify(scope, sent)
        status = size = 0  # of what has gone out
        respond: Send | None = None  # who has taken over the response
        answering = finished = False

        def finish() -> None:
            nonlocal finished
            finished = True
            self.outcomes.add(scope, status or 500, perf_counter() - start, size, ids)

        def take(message: Message) -> Awaitable[None]:
            nonlocal answering, respond
            if message["type"] == "http.response.start":
                answering = True
                deadlines.end(task)
                message = headers.completed(message, ids["request_id"])
                respond = responder(scope, message, send_and_note)
            return respond(message) if respond else send_and_note(message)

        def send_and_note(message: Message) -> Awaitable[None]:
            nonlocal status, size
            if message["type"] == "http.response.start":
                status = message["status"]
            elif message["type"] == "http.response.body":
                size += len(message.get("body", b""))
                if not message.get("more_body", False) and not finished:
                    finish()
            return send(message)

        limits.in_flight += 1
        deadlines.begin(task, start)
        try:
            app = limits.refusal(scope, sent) or self.app
            if b"transfer-encoding" in sent:
                receive = limits.bounded(receive, lambda: answering)
            await app(scope, receive, take)
        except BaseException as error:
            if not status and deadlines.missed(task):
                task.uncancel()
                await problem(504, headers={"Connection": "close"})(scope, receive, take)
                return
            if not status and isinstance(error, Exception):
                await problem(500)(scope, receive, take)  # what it says stays in the log
            raise  # uvicorn logs it
        finally:
            limits.in_flight -= 1
            if not answering:
                deadlines.end(task)
            if not finished:
                finish()
