"""Draining: what happens between SIGTERM and uvicorn's own shutdown, so that no request is lost.

uvicorn alone stops listening and at once closes idle connections, also those that it has just
accepted and those on which a client is sending its next request. Here it goes step by step:

1. Readiness says 503 while everything is still served, so that load balancers look elsewhere.
2. Each response tells its client to leave (`Connection: close`).
3. Connections are accepted and answered until nothing is in flight: a balancer may be late.
   Where several processes share the listener, it closes before step 2 instead: connections wait in
   the socket for another process.
4. uvicorn shuts down: what is in flight may finish within the budget.
"""

import asyncio
from collections.abc import Callable

from uvicorn import Server

from ..process.shared import SEVERAL_PROCESSES
from ..uvicorn_server import activity, announce_close, before_shutdown, close_websockets, in_flight

# Long enough for a load balancer that asks each second.
ANNOUNCE_SECONDS = 2.0
# Long enough for every process that shares the listener to have closed it.
CLOSE_SECONDS = 0.5
# Long enough for a client that is just sending its next request.
SETTLE_SECONDS = 1.0
# All of it: the budget counts with this.
DRAIN_SECONDS = ANNOUNCE_SECONDS + CLOSE_SECONDS + SETTLE_SECONDS

# Nothing was sent for so long: balancers have let go. Shorter than the interval of health checks.
QUIET_SECONDS = 0.5
TICK_SECONDS = 0.05


def drain_before_shutdown(server: Server, announce: Callable[[], None]) -> None:
    """Make `server` drain before it shuts down; `announce` is called when draining begins."""
    now = asyncio.get_running_loop().time

    async def wait(seconds: float, *, until_idle: bool = False) -> None:
        deadline = now() + seconds
        while not server.force_exit and now() < deadline:
            if until_idle and not server.server_state.connections:
                return
            await asyncio.sleep(TICK_SECONDS)

    async def serve_late_connections() -> None:
        """Serve what comes until nothing is in flight; uvicorn gets what is left of the budget."""
        began, budget = now(), server.config.timeout_graceful_shutdown
        quiet_since, last = began, activity(server)
        while not server.force_exit and (budget is None or now() < began + budget):
            close_websockets(server)
            if in_flight(server) or activity(server) != last:
                quiet_since, last = now(), activity(server)
            elif now() - quiet_since >= QUIET_SECONDS:
                break
            await asyncio.sleep(TICK_SECONDS)
        if budget is not None:
            server.config.timeout_graceful_shutdown = max(1, int(began + budget - now()))

    async def drain() -> None:
        announce()
        if server.should_exit:  # not a worker that has served its share of requests
            await wait(ANNOUNCE_SECONDS)
        if SEVERAL_PROCESSES:
            for listener in server.servers:
                listener.close()
            await wait(CLOSE_SECONDS)
        announce_close(server)
        await wait(SETTLE_SECONDS, until_idle=True)
        if not SEVERAL_PROCESSES:
            await serve_late_connections()

    before_shutdown(server, drain)
