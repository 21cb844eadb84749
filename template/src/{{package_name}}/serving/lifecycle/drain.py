"""Draining: the steps between SIGTERM and uvicorn's own shutdown, so that no request is lost.

uvicorn alone stops listening and at once closes idle connections, including those it has just
accepted and those on which a client is sending its next request. The drain does this instead:

1. Readiness returns 503 while all requests are still served, so that load balancers stop sending.
2. Each response has `Connection: close`.
3. Connections are accepted and served until nothing is in flight, for balancers that react late.
   If several processes share the listener, it is closed before step 2 instead: new connections
   wait in the socket for another process.
4. uvicorn shuts down: requests in flight may finish within the budget.
"""

import asyncio
from collections.abc import Callable

from uvicorn import Server

from ..process.shared import SEVERAL_PROCESSES
from ..uvicorn_server import activity, announce_close, before_shutdown, close_websockets, in_flight

# Long enough for a load balancer that probes every second.
ANNOUNCE_SECONDS = 2.0
# Long enough for every process that shares the listener to have closed it.
CLOSE_SECONDS = 0.5
# Long enough for a client that is sending its next request.
SETTLE_SECONDS = 1.0
# Total duration of the drain; the shutdown budget includes it.
DRAIN_SECONDS = ANNOUNCE_SECONDS + CLOSE_SECONDS + SETTLE_SECONDS

# Without traffic for this long, load balancers have stopped sending. Shorter than a probe interval.
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
        """Serve new requests until none is in flight; uvicorn gets the rest of the budget."""
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
        if server.should_exit:  # not for a worker that has reached `limit_max_requests`
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
