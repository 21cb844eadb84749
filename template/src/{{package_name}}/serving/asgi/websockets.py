"""WebSockets: ID, limits, metrics, and a line in the access log when one ends."""

from collections.abc import Awaitable
from contextlib import suppress
from time import perf_counter
from types import SimpleNamespace

from fastapi import HTTPException
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from ..observability.access_log import AccessLog
from . import request_id
from .errors import CLIENT_CLOSED_REQUEST, problem
from .headers import completed
from .limits import Limits
from .wrap import ROUTED_KEY

# The code when a connection ends without a close frame (RFC 6455, 7.1.5).
NO_CLOSE_FRAME = 1006
# The ASGI extension for refusing a handshake with an HTTP response.
DENIAL = "websocket.http.response"
# Close codes that the protocol defines (RFC 6455, 7.4.1, and IANA's registry).
PROTOCOL_CODES = range(1000, 1016)


class WebSocketMiddleware:
    """Wraps the application: limits, measures and logs each WebSocket."""

    def __init__(self, app: ASGIApp, limits: Limits, access_log: AccessLog) -> None:
        self.app = app
        self.limits = limits
        self.access_log = access_log

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if ROUTED_KEY in scope:  # mounted in another application with this layer
            await self.app(scope, receive, send)
            return
        started = perf_counter()
        routed = scope[ROUTED_KEY] = SimpleNamespace(scope=scope)
        headers = dict(reversed(scope.get("headers", ())))
        ids = request_id.identify(scope, receive, headers)
        token = request_id.bind(ids)
        response_id = (b"x-request-id", ids["request_id"].encode())
        status: int | None = None  # of the handshake
        code: int | None = None
        label = "other"  # the code in metrics, bounded: clients may send any of 2,000

        async def receive_and_record() -> Message:
            nonlocal code, label, status
            message = await receive()
            if message["type"] == "websocket.disconnect" and code is None:
                code = message.get("code", NO_CLOSE_FRAME)
                label = str(code) if code in PROTOCOL_CODES else label
                status = status or CLIENT_CLOSED_REQUEST
            return message

        def send_and_record(message: Message) -> Awaitable[None]:
            nonlocal code, label, status
            if message["type"] == "websocket.accept":
                status = 101
                ids.update(request_id.span_ids())
                message = {**message, "headers": [*message.get("headers", ()), response_id]}
            elif message["type"] == "websocket.http.response.start":
                status = message["status"]
                ids.update(request_id.span_ids())
                message = completed(message, ids["request_id"])
            elif message["type"] == "websocket.close" and code is None:
                code = message.get("code", 1000)
                label = str(code)
                status = status or 403
            return send(message)

        self.limits.websockets_open += 1
        try:
            if refusal := self.limits.refusal(scope, headers):
                await receive_and_record()  # websocket.connect
                await refuse(refusal, scope, receive, send_and_record)
            else:
                await self.app(scope, receive_and_record, send_and_record)
        except Exception:
            if status is None and DENIAL in scope.get("extensions", {}):
                with suppress(OSError):  # the client has disconnected
                    await problem(500)(scope, receive, send_and_record)
            raise  # uvicorn logs it with the request ID
        else:
            request_id.unbind(token)
        finally:
            self.limits.websockets_open -= 1
            del scope[ROUTED_KEY]  # it would be a reference cycle
            status = status or 500  # what uvicorn sends for an application that sends nothing
            close_code = (code or NO_CLOSE_FRAME) if status == 101 else None
            seconds = perf_counter() - started
            self.access_log.add_websocket(routed.scope, status, close_code, label, seconds, ids)


async def refuse(refusal: HTTPException, scope: Scope, receive: Receive, send: Send) -> None:
    """Refuse the handshake with a problem, or with 403 if the server supports only that."""
    if DENIAL in scope.get("extensions", {}):
        response = problem(refusal.status_code, refusal.detail, headers=refusal.headers)
        await response(scope, receive, send)
    else:
        await send({"type": "websocket.close", "code": 1013})
