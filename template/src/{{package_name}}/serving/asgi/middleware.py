"""ASGI middleware: request ID, limits, deadline, headers, compression, metrics, access log."""

from collections.abc import Awaitable
from time import perf_counter
from typing import Any

from anyio import CancelScope
from anyio.lowlevel import checkpoint
from fastapi import FastAPI, HTTPException
from starlette.datastructures import Headers
from starlette.middleware.body_limit import MAX_BODY_SIZE_SCOPE_KEY, RequestBodyLimitMiddleware
from starlette.middleware.cors import CORSMiddleware
from starlette.middleware.exceptions import ExceptionMiddleware
from starlette.responses import PlainTextResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from ..observability.access_log import AccessLog
from ..uvicorn_server import is_uvicorn, log_exception
from . import headers, request_id
from .compression import Compressor, negotiate
from .errors import CLIENT_CLOSED_REQUEST, problem
from .limits import Limits, is_health, is_preflight
from .wrap import ROUTED_KEY

BODY_LIMIT_HEADERS = frozenset(PlainTextResponse("Content Too Large").raw_headers)


class ServingMiddleware:
    """Wraps the whole application, so that it handles every response.

    One class does all of it, because each further wrapper of `send` would cost more than its work.
    """

    def __init__(
        self, app: ASGIApp, fastapi: FastAPI, limits: Limits, access_log: AccessLog
    ) -> None:
        self.app = app
        # A route with `max_body_size=` changes the limit of this middleware.
        self.app_with_body = RequestBodyLimitMiddleware(app, limits.max_body_bytes)
        self.fastapi = fastapi
        self.limits = limits
        self.access_log = access_log
        self.cors: CORSMiddleware | None = None
        self.is_prepared = False

    def __call__(self, scope: Scope, receive: Receive, send: Send) -> Awaitable[None]:
        if ROUTED_KEY in scope:  # mounted in another application with this layer
            return self.app(scope, receive, send)
        if not self.is_prepared:
            self.prepare()
        if scope["method"] == "HEAD" and is_health(scope):
            scope = {**scope, "method": "GET"}  # the server omits the body
        return Exchange(self, scope, receive, send).run()

    def prepare(self) -> None:
        """Use the CORS middleware that the application added after `install`."""
        self.is_prepared = True
        for cls, args, kwargs in self.fastapi.user_middleware:
            # Not a subclass, which may exclude some paths from CORS.
            if cls is CORSMiddleware and self.cors is None:  # the outermost one
                self.cors = CORSMiddleware(self.app, *args, **kwargs)

    async def refuse(
        self, refusal: HTTPException, scope: Scope, receive: Receive, send: Send
    ) -> None:
        """Respond with `refusal` through the exception handlers of the application."""

        async def raise_refusal(scope: Scope, receive: Receive, send: Send) -> None:
            raise refusal

        handlers: dict[Any, Any] = self.fastapi.exception_handlers
        scope["app"] = self.fastapi
        await ExceptionMiddleware(raise_refusal, handlers)(scope, receive, send)


class Exchange:
    """One request and its response."""

    __slots__ = (
        *("middleware", "scope", "receive_from_server", "send_to_server", "request_headers"),
        *("started", "ids", "status", "size", "is_complete", "is_disconnected", "is_replaced"),
        *("is_timed_out", "deadline", "compressor"),
    )

    def __init__(
        self, middleware: ServingMiddleware, scope: Scope, receive: Receive, send: Send
    ) -> None:
        self.middleware = middleware
        self.scope = scope
        self.receive_from_server = receive
        self.send_to_server = send
        self.started = perf_counter()
        # The first header of a name wins, as in Starlette.
        self.request_headers: dict[bytes, bytes] = dict(reversed(scope.get("headers", ())))
        self.ids = request_id.identify(scope, receive, self.request_headers)
        self.deadline = middleware.limits.deadlines.begin(scope, self.started)
        self.status = self.size = 0
        self.is_complete = self.is_disconnected = False
        self.is_replaced = self.is_timed_out = False
        self.compressor: Compressor | None = None

    async def run(self) -> None:
        """Handle the request."""
        middleware, deadline, scope = self.middleware, self.deadline, self.scope
        limits, request_headers = middleware.limits, self.request_headers
        token = request_id.bind(self.ids)
        limits.in_flight += 1
        error: BaseException | None = None
        try:
            try:
                with deadline.cancel_scope:
                    if refusal := limits.refusal(scope, request_headers):
                        await self.refuse(refusal)
                    elif middleware.cors and is_preflight(scope, request_headers):
                        # Before the service's middleware: a preflight has no token to check.
                        await middleware.cors(scope, self.receive, self.send)
                    elif self.has_body() and MAX_BODY_SIZE_SCOPE_KEY not in scope:
                        await middleware.app_with_body(scope, self.receive, self.send)
                    else:
                        await middleware.app(scope, self.receive, self.send)
            # `sys.exit()` in a route is an error of the request; a cancellation is the server's.
            except (Exception, BaseExceptionGroup, SystemExit) as raised:
                error = raised
            finally:
                limits.in_flight -= 1
                deadline.end()
            if deadline.expired:
                deadline.log(error)
                error = None
            if deadline.expired and not self.status:
                await self.time_out()
            elif error and not self.status:
                await problem(500)(scope, self.receive, self.send)
            if error and self.is_complete and is_uvicorn(self.receive_from_server):
                log_exception(error)  # as uvicorn does, but without closing the connection
            elif error:
                raise error
        finally:
            if not self.is_complete:
                self.log()
            if self.is_complete or not is_uvicorn(self.receive_from_server):
                request_id.unbind(token)  # else uvicorn logs the exception with these IDs
            del error

    def has_body(self) -> bool:
        """Return whether the request has a body."""
        names = self.request_headers
        return b"content-length" in names or b"transfer-encoding" in names

    async def receive(self) -> Message:
        """Receive a message, and record a disconnected client."""
        message = await self.receive_from_server()
        if message["type"] == "http.disconnect" and not self.is_complete:
            self.is_disconnected = True
        return message

    def send(self, message: Message) -> Awaitable[None]:
        """Send a message from the application."""
        if message["type"] == "http.response.start":
            return self.start(message)
        if self.deadline.expired and not self.status:
            return checkpoint()  # the start was not sent, and a shielded scope raised nothing
        if self.is_replaced and self.is_complete:
            return nothing()  # the rest of a replaced response
        if self.compressor and message["type"] == "http.response.body":
            return self.compressor.send(message, self.send_part)
        return self.send_part(message)

    def start(self, message: Message) -> Awaitable[None]:
        """Send the start of the response."""
        if message["status"] == 413 and is_body_limit(message) and not self.is_replaced:
            self.is_replaced = True
            return self.refuse(HTTPException(413))
        if self.deadline.expired and not self.is_timed_out:
            # The rest would be cut off, so respond with 504; the error behind a 500 is logged.
            return self.time_out() if message["status"] == 500 else checkpoint()
        if not self.status:
            self.status = message["status"]
            self.deadline.end()
            self.ids.update(request_id.span_ids())
        message = headers.completed(message, self.ids["request_id"])
        self.compressor = negotiate(self.scope, message)
        if self.compressor:
            message = self.compressor.start(message)
        if self.middleware.cors and b"origin" in self.request_headers:
            return send_with_cors(self.middleware.cors, message, self.scope, self.send_to_server)
        return self.send_to_server(message)

    async def time_out(self) -> None:
        """Respond with 504 instead of the application, which is cancelled."""
        self.is_replaced = self.is_timed_out = True
        with CancelScope(shield=True):
            # The request body may be unread.
            await self.refuse(HTTPException(504, headers={"Connection": "close"}))

    async def refuse(self, refusal: HTTPException) -> None:
        """Respond with `refusal` through the application's handlers; if they fail, as a problem."""
        try:
            await self.middleware.refuse(refusal, self.scope, self.receive, self.send)
        except Exception as error:
            log_exception(error)
            if not self.status:
                response = problem(refusal.status_code, refusal.detail, headers=refusal.headers)
                await response(self.scope, self.receive, self.send)

    def send_part(self, message: Message) -> Awaitable[None]:
        """Send a message that follows the start, and count its bytes."""
        if message["type"] == "http.response.body":
            self.size += len(message.get("body", b""))
            if not message.get("more_body", False) and not self.is_complete:
                self.is_complete = True
                self.log()
        return self.send_to_server(message)

    def log(self) -> None:
        """Add the request to metrics and access log."""
        status = CLIENT_CLOSED_REQUEST if self.is_disconnected else self.status or 500
        seconds = perf_counter() - self.started
        scope = self.deadline.scope  # it contains the route
        self.middleware.access_log.add(scope, status, seconds, self.size, self.ids)


def is_body_limit(start: Message) -> bool:
    """Return whether a response is from Starlette's body limit, which bypasses the handlers."""
    headers = start.get("headers", ())
    others = {name for name, _ in headers} - {name for name, _ in BODY_LIMIT_HEADERS} - {b"vary"}
    is_plain = all(name.startswith(b"access-control-") for name in others)
    return is_plain and BODY_LIMIT_HEADERS.issubset(headers)


async def nothing() -> None:
    """Do nothing."""


async def send_with_cors(cors: CORSMiddleware, start: Message, scope: Scope, send: Send) -> None:
    """Send the start of a response with CORS headers, which errors would otherwise lack."""
    request_headers = Headers(scope=scope)
    names = {name.lower() for name, _ in start["headers"]}
    is_allowed = cors.is_allowed_origin(request_headers["origin"])
    if is_allowed and b"access-control-allow-origin" not in names:
        await cors.send(start, send, request_headers)
    else:
        await send(start)
