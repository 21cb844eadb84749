"""`GET /metrics` on a port of its own, for monitoring alone."""

from collections.abc import Callable

from fastapi import Response
from prometheus_client import CONTENT_TYPE_LATEST, generate_latest
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.routing import Route
from uvicorn import Server

from ..process.shared import SEVERAL_PROCESSES, registry
from ..uvicorn_server import listen


async def metrics(_: Request) -> Response:
    """Return every metric in Prometheus' text format."""
    return Response(generate_latest(registry()), media_type=CONTENT_TYPE_LATEST)


async def start(server: Server, host: str, port: int) -> Callable[[], None]:
    """Serve `/metrics` beside `server`. Returns what ends it.

    Raises `OSError` when the port is not available.
    """
    app = Starlette(routes=[Route("/metrics", metrics)])
    return await listen(server, app, host, port, reuse_port=SEVERAL_PROCESSES)
