"""Draining: what happens between SIGTERM and uvicorn's own shutdown, so that no request is lost.

uvicorn alone stops listening and at once closes idle connections, also those that it has just
accepted and those on which a client is sending its next request. Here it goes step by step:

1. Readiness says 503 while everything is still served, so that load balancers look elsewhere.
2. The listener closes. Clients keep their connections, so none of them comes back too late.
3. Each response tells its client to leave (`Connection: close`).
4. Once all have left, or after a second, uvicorn shuts down: what is in flight may finish.
"""

import asyncio
from collections.abc import Callable

from uvicorn import Server

from ..uvicorn_server import announce_close, before_shutdown

# Long enough for a load balancer that asks each second.
ANNOUNCE_SECONDS = 2.0
# Long enough for every process that shares the listener to have closed it.
CLOSE_SECONDS = 0.5
# Long enough for a client that is just sending its next request.
SETTLE_SECONDS = 1.0
# All of it: the budget counts with this.
DRAIN_SECONDS = ANNOUNCE_SECONDS + CLOSE_SECONDS + SETTLE_SECONDS


def drain_before_shutdown(server: Server, announce: Callable[[], None]) -> None:
    """Make `server` drain before it shuts down; `announce` is called when draining begins."""

    async def wait(seconds: float, *, until_idle: bool = False) -> None:
        deadline = asyncio.get_running_loop().time() + seconds
        while not server.force_exit and asyncio.get_running_loop().time() < deadline:
            if until_idle and not server.server_state.connections:
                return
            await asyncio.sleep(0.05)

    async def drain() -> None:
        announce()
        if server.should_exit:  # not a worker that has served its share of requests
            await wait(ANNOUNCE_SECONDS)
        for listener in server.servers:
            listener.close()
        await wait(CLOSE_SECONDS)
        announce_close(server)
        await wait(SETTLE_SECONDS, until_idle=True)

    before_shutdown(server, drain)
