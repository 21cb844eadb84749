"""Draining: what happens between SIGTERM and uvicorn's own shutdown, so that no request is lost.

uvicorn alone stops listening and closes idle connections at once, also those it has just accepted
and those on which a client is just sending its next request. Here the process first says that it is
draining, and every answer tells its client to leave.
"""

import asyncio
from collections.abc import Callable
from socket import socket

from uvicorn import Server

# Long enough for a load balancer that polls readiness each second to look elsewhere.
ANNOUNCE_SECONDS = 2.0
# Long enough for a request that was on its way when the listener closed.
SETTLE_SECONDS = 1.0


def drain_before_shutdown(server: Server, announce: Callable[[], None]) -> None:
    """Make `server` drain before it shuts down; `announce` is called when draining begins."""
    shutdown = server.shutdown

    async def wait(seconds: float, *, until_idle: bool) -> None:
        deadline = asyncio.get_running_loop().time() + seconds
        while not server.force_exit and asyncio.get_running_loop().time() < deadline:
            if until_idle and not server.server_state.connections:
                return
            await asyncio.sleep(0.05)

    async def drain_then_shutdown(sockets: list[socket] | None = None) -> None:
        announce()
        server.server_state.default_headers.append((b"connection", b"close"))
        if server.should_exit:  # not when a worker has served its share of requests
            await wait(ANNOUNCE_SECONDS, until_idle=False)
        for listener in server.servers:
            listener.close()
        await wait(SETTLE_SECONDS, until_idle=True)
        await shutdown(sockets)

    server.shutdown = drain_then_shutdown  # type: ignore[method-assign]
