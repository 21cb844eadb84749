"""Access to internals of the running uvicorn server that have no public interface.

No other module uses them. If uvicorn changes one, tests/serving/test_uvicorn_server.py fails and
names it.
"""

import asyncio
import logging
import signal
from collections.abc import Awaitable, Callable
from socket import socket
from typing import Any

from starlette.types import ASGIApp, Receive, Scope
from uvicorn import Config, Server
from uvicorn.server import ServerState

logger = logging.getLogger("uvicorn.error")

PARSERS = {
    "uvicorn.protocols.http.httptools_impl": "httptools",
    "uvicorn.protocols.http.h11_impl": "h11",
}


def running_server() -> Server | None:
    """Return the uvicorn server of this process, or None, as under a test client.

    uvicorn's SIGTERM handler is a method of its `Server`, from before the lifespan starts until
    after it ends.
    """
    server = getattr(signal.getsignal(signal.SIGTERM), "__self__", None)
    return server if isinstance(server, Server) else None


def parser_name(server: Server) -> str:
    """Return the HTTP parser in use, such as `httptools`; `auto` is resolved."""
    module: str = server.config.http_protocol_class.__module__
    return PARSERS.get(module, module)


def before_shutdown(server: Server, drain: Callable[[], Awaitable[None]]) -> None:
    """Make `server` await `drain` before it shuts down."""
    shutdown = server.shutdown

    async def drain_then_shutdown(sockets: list[socket] | None = None) -> None:
        await drain()
        await shutdown(sockets)

    server.shutdown = drain_then_shutdown  # type: ignore[method-assign]


def announce_close(server: Server) -> None:
    """Send `Connection: close` with every response from now on."""
    server.server_state.default_headers.append((b"connection", b"close"))


def in_flight(server: Server) -> bool:
    """Return whether a request or WebSocket is being handled, or a response being sent.

    Idle connections do not count.
    """
    state = server.server_state
    return bool(state.tasks) or any(
        connection.transport.get_write_buffer_size() for connection in state.connections
    )


def activity(server: Server) -> tuple[int, frozenset[object]]:
    """Return the request count and the open connections, to compare with a later call.

    Idle connections do not change the result.
    """
    state = server.server_state
    return state.total_requests, frozenset(state.connections)


def close_websockets(server: Server) -> None:
    """Close each open WebSocket with code 1012, "service restart"."""
    for connection in [*server.server_state.connections]:
        protocol: Any = connection
        if getattr(protocol, "handshake_complete", False) and not protocol.transport.is_closing():
            protocol.shutdown()
            # Another shutdown() would send a second close frame, which raises an error.
            protocol.shutdown = protocol.transport.close


async def listen(
    server: Server, app: ASGIApp, host: str, port: int, *, reuse_port: bool
) -> Callable[[], None]:
    """Serve a second application on another port, in the process and event loop of `server`.

    Returns a function that stops it. Raises `OSError` if the port is not available.
    """
    parser = server.config.http_protocol_class
    config = Config(app, http=parser, lifespan="off", log_config=None, server_header=False)
    config.proxy_headers = False
    config.load()
    protocol_class: Any = parser
    state = ServerState()

    def new_protocol() -> Any:
        return protocol_class(config=config, server_state=state, app_state={})

    loop = asyncio.get_running_loop()
    listener = await loop.create_server(new_protocol, host, port, reuse_port=reuse_port)
    return listener.close


def is_uvicorn(receive: Receive) -> bool:
    """Return whether `receive` is uvicorn's, not a test client's or a middleware's."""
    owner = getattr(receive, "__self__", None)
    return type(owner).__module__.startswith("uvicorn.protocols.")


def is_forwarded(scope: Scope, receive: Receive) -> bool:
    """Return whether a trusted proxy (`--forwarded-allow-ips`) has set the client's address.

    uvicorn reads it from X-Forwarded-For, with port 0, which no TCP connection has. If the header
    contains a port, the address differs from that of the connection.
    """
    client = scope.get("client")
    if client is None or client[1] == 0:
        return client is not None
    transport = getattr(getattr(receive, "__self__", None), "transport", None)
    peer = transport.get_extra_info("peername") if transport else None
    return peer is not None and tuple(peer[:2]) != tuple(client)


def log_exception(error: BaseException) -> None:
    """Log an exception of the application, with uvicorn's message."""
    logger.error("Exception in ASGI application\n", exc_info=error)
