"""ASGI middleware: request ID, limits, deadline, headers, compression, metrics, access log."""

from collections.abc import Awaitable
from time import perf_counter
from typing import Any

from fastapi import FastAPI
from starlette.datastructures import Headers
from starlette.exceptions import HTTPException
from starlette.middleware.cors import CORSMiddleware
from starlette.middleware.exceptions import ExceptionMiddleware
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from ..observability.access_log import AccessLog
from ..uvicorn_server import is_uvicorn, log_exception
from . import headers, request_id
from .compression import Compressor, negotiate
from .errors import problem
from .limits import Limits
from .websockets import WebSocketSession

# Logged when the client has closed its connection before the response was complete.
CLIENT_CLOSED_REQUEST = 499


def wrap(app: FastAPI, middleware: ASGIApp) -> None:
    """Make each call of `app` go through `middleware`.

    Middleware of `app` would run inside FastAPI's error handling, and middleware that is added
    later would run outside of it: neither sees every response. So `app` gets a subclass of its
    class whose `__call__`, the interface of ASGI, is the middleware.
    """

    async def call(_: FastAPI, scope: Scope, receive: Receive, send: Send) -> None:
        await middleware(scope, receive, send)

    app_class = type(app)
    names = {"__call__": call, "__doc__": app_class.__doc__, "__module__": app_class.__module__}
    app.__class__ = type(app_class.__name__, (app_class,), names)


class ServingMiddleware:
    """Runs around the whole application, so that no response leaves without it.

    One class does all of it: each further wrapper of `send` costs more than what it does.
    """

    def __init__(
        self, app: FastAPI, lifespan: ASGIApp, limits: Limits, access_log: AccessLog
    ) -> None:
        self.fastapi = app
        app_class = type(app)
        # Looked up with each call: instrumentation may replace it on the class.
        self.app: ASGIApp = lambda *call: app_class.__call__(app, *call)
        self.lifespan = lifespan
        self.limits = limits
        self.access_log = access_log
        self.cors: CORSMiddleware | None = None
        self.ready = False

    def prepare(self) -> None:
        """Take over what was added to the application after `install`: its CORS middleware."""
        self.ready = True
        for cls, args, kwargs in self.fastapi.user_middleware:
            if isinstance(cls, type) and issubclass(cls, CORSMiddleware):
                self.cors = cls(self.app, *args, **kwargs)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http":
            await self.http(scope, receive, send)
        elif scope["type"] == "websocket":
            session = WebSocketSession(self.app, self.limits, self.access_log)
            await session(scope, receive, send)
        else:
            await self.lifespan(scope, receive, send)

    async def http(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer a request."""
        started = perf_counter()
        if not self.ready:
            self.prepare()
        limits = self.limits
        sent = dict(reversed(scope["headers"]))  # the first of a name wins, as in Starlette
        ids = request_id.identify(scope, receive, sent)
        token = request_id.bind(ids)
        deadline = limits.deadlines.begin(scope, started)
        status = size = 0
        complete = client_left = False
        compressor: Compressor | None = None

        async def receive_and_note() -> Message:
            nonlocal client_left
            message = await receive()
            if message["type"] == "http.disconnect" and not complete:
                client_left = True
            return message

        def send_and_note(message: Message) -> Awaitable[None]:
            nonlocal complete, size
            if message["type"] == "http.response.body":
                size += len(message.get("body", b""))
                if not message.get("more_body", False) and not complete:
                    complete = True
                    log()
            return send(message)

        def send_processed(message: Message) -> Awaitable[None]:
            nonlocal compressor, status
            if message["type"] == "http.response.start":
                if not status:
                    status = message["status"]
                    deadline.end()
                    ids.update(request_id.span_ids())
                message = headers.completed(message, ids["request_id"])
                compressor = negotiate(scope, message)
                if compressor:
                    message = compressor.start(message)
                if self.cors and b"origin" in sent:
                    return self.send_with_cors(message, scope, send)
            elif compressor and message["type"] == "http.response.body":
                return compressor.send(message, send_and_note)
            return send_and_note(message)

        def log() -> None:
            logged = CLIENT_CLOSED_REQUEST if client_left else status or 500
            self.access_log.add(scope, logged, perf_counter() - started, size, ids)

        limits.in_flight += 1
        error: Exception | None = None
        try:
            try:
                refusal = limits.refusal(scope, sent)
                app = self.refusing(refusal) if refusal else self.app
                with deadline.cancel_scope:
                    await app(scope, receive_and_note, send_processed)
            except Exception as raised:
                error = raised
            finally:
                limits.in_flight -= 1
                deadline.end()
            if deadline.expired and not status:
                deadline.log(error)
                error = None
                timeout = HTTPException(504, headers={"Connection": "close"})
                await self.refusing(timeout)(scope, receive_and_note, send_processed)
            elif error and not status:
                await problem(500)(scope, receive, send_processed)
            if error and complete and is_uvicorn(receive):
                log_exception(error)  # as uvicorn would, which closes the connection as well
            elif error:
                raise error
        finally:
            if not complete:
                log()
            if complete or not is_uvicorn(receive):  # uvicorn has a line to write
                request_id.unbind(token)

    def refusing(self, refusal: HTTPException) -> ASGIApp:
        """Return an application that answers with `refusal`, by the handlers of the service."""

        async def refuse(scope: Scope, receive: Receive, send: Send) -> None:
            raise refusal

        handlers: dict[Any, Any] = self.fastapi.exception_handlers
        app = ExceptionMiddleware(refuse, handlers)

        async def answer(scope: Scope, receive: Receive, send: Send) -> None:
            scope["app"] = self.fastapi
            await app(scope, receive, send)

        return answer

    async def send_with_cors(self, start: Message, scope: Scope, send: Send) -> None:
        """Send the start of a response with the headers of CORS, which errors lack otherwise."""
        request_headers, names = Headers(scope=scope), {name.lower() for name, _ in start["headers"]}
        is_allowed = self.cors and self.cors.is_allowed_origin(request_headers["origin"])
        if self.cors and is_allowed and b"access-control-allow-origin" not in names:
            await self.cors.send(start, send, request_headers)
        else:
            await send(start)
