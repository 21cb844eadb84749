"""`GET /metrics` on a separate port, for monitoring only."""

import gc
from collections.abc import Callable

from anyio import CapacityLimiter, to_thread
from fastapi import Response
from prometheus_client import CONTENT_TYPE_LATEST, generate_latest
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.routing import Route
from uvicorn import Server

from ..process.shared import SEVERAL_PROCESSES, registry
from ..uvicorn_server import listen


def render() -> bytes:
    """Return every metric in Prometheus' text format.

    Without the garbage collector: thousands of short-lived samples would trigger a full
    collection, which blocks the event loop for tens of milliseconds.
    """
    collecting = gc.isenabled()
    gc.disable()
    try:
        return generate_latest(registry())
    finally:
        if collecting:
            gc.enable()


async def start(server: Server, host: str, port: int) -> Callable[[], None]:
    """Serve `/metrics` in the process of `server`. Returns a function that stops it.

    Raises `OSError` if the port is not available.
    """
    # With a thousand routes it takes 0.2 s: too long for the event loop. Not in one of the THREADS,
    # which may all be in use.
    limiter = CapacityLimiter(1)

    async def metrics(_: Request) -> Response:
        text = await to_thread.run_sync(render, limiter=limiter)
        return Response(text, media_type=CONTENT_TYPE_LATEST)

    app = Starlette(routes=[Route("/metrics", metrics)])
    return await listen(server, app, host, port, reuse_port=SEVERAL_PROCESSES)
