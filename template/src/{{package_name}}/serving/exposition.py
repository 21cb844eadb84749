"""`GET /metrics`, on a port of its own: for monitoring alone, behind no public route."""

import asyncio
from collections.abc import Callable
from typing import Any

from fastapi import Response
from prometheus_client import CONTENT_TYPE_LATEST, generate_latest
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.routing import Route
from uvicorn import Config, Server
from uvicorn.server import ServerState

from .registry import SHARED_PORT, registry


async def metrics(_: Request) -> Response:
    """Everything that is counted, in Prometheus' text format."""
    return Response(generate_latest(registry()), media_type=CONTENT_TYPE_LATEST)


async def expose(server: Server, host: str, port: int) -> Callable[[], None]:
    """Serve `/metrics` beside `server`, in its process and on its event loop.

    Returns what ends it. Raises `OSError` when the port can't be had.
    """
    config = Config(
        Starlette(routes=[Route("/metrics", metrics)]),
        http=server.config.http_protocol_class,
        lifespan="off",
        log_config=None,
        proxy_headers=False,
        server_header=False,
    )
    config.load()
    protocol_class: Any = config.http_protocol_class
    state = ServerState()

    def new_protocol() -> Any:
        return protocol_class(config=config, server_state=state, app_state={})

    loop = asyncio.get_running_loop()
    listener = await loop.create_server(new_protocol, host, port, reuse_port=SHARED_PORT)
    return listener.close
