"""Install the serving layer in every application that upstream tests create.

Configured by environment variables, which subprocesses of a test inherit:

- `LAYER_SUITE`: `fastapi` or `starlette`
- `LAYER_PACKAGE`: the package of the rendered service
- `LAYER_ERRORS`: `problems`, or `framework` to restore the framework's exception handlers

Additions of the layer are hidden from OpenAPI documents, which upstream compares whole: the two
health routes (they stay in the routing table) and the problem response of every operation.
"""

import functools
import os
from importlib import import_module
from typing import Any

from starlette.applications import Starlette
from starlette.types import ASGIApp, Receive, Scope, Send

# Bytes. Upstream sends bodies of a few megabytes, above the default of `MAX_BODY_BYTES`.
LARGE = 2**30


def apply() -> None:
    """Patch the framework of the suite."""
    serving = import_module(f"{os.environ['LAYER_PACKAGE']}.serving")
    if os.environ["LAYER_SUITE"] == "fastapi":
        layer_fastapi(serving)
    else:
        layer_starlette(serving)


def layer_fastapi(serving: Any) -> None:
    """Install the layer at the end of `FastAPI.__init__`, like a service's `app.py`."""
    from fastapi import FastAPI

    settings = serving.ServingSettings(docs=True, max_body_bytes=LARGE)
    construct = FastAPI.__init__

    @functools.wraps(construct)
    def construct_and_install(self: Any, *args: Any, **options: Any) -> None:
        construct(self, *args, **options)
        routes, handlers = list(self.router.routes), dict(self.exception_handlers)
        serving.install(self, settings)
        for route in self.router.routes:
            if route not in routes:
                route.include_in_schema = False
        self.router.responses.pop("default", None)
        if os.environ["LAYER_ERRORS"] == "framework":
            self.exception_handlers = handlers

    FastAPI.__init__ = construct_and_install


def layer_starlette(serving: Any) -> None:
    """Wrap every `Starlette()`, and every other ASGI application passed to a test client."""
    from starlette.testclient import _TestClientTransport

    settings = serving.ServingSettings(max_body_bytes=LARGE)
    plain, construct = Starlette.__call__, _TestClientTransport.__init__

    async def call(self: Any, scope: Scope, receive: Receive, send: Send) -> None:
        layered = vars(self).get("layered")
        if layered is None:
            self.layered = layered = wrap(functools.partial(plain, self), serving, settings)
        await layered(scope, receive, send)

    @functools.wraps(construct)
    def construct_and_wrap(self: Any, app: ASGIApp, *args: Any, **options: Any) -> None:
        layered = app if isinstance(app, Starlette) else wrap(app, serving, settings)
        construct(self, layered, *args, **options)

    Starlette.__call__ = call
    _TestClientTransport.__init__ = construct_and_wrap


def wrap(app: ASGIApp, serving: Any, settings: Any) -> ASGIApp:
    """Return an ASGI application wrapped in the layer."""
    from fastapi import FastAPI

    asgi, observability = serving.asgi, serving.observability
    host = FastAPI()  # refusals of the layer use its exception handlers
    limits = asgi.limits.Limits(settings)
    log = observability.logs.configure(settings)
    access_log = observability.access_log.AccessLog(host, log, settings.log_level)
    layers = {
        "http": asgi.middleware.ServingMiddleware(app, host, limits, access_log),
        "websocket": asgi.websockets.WebSocketMiddleware(app, limits, access_log),
    }

    async def layered(scope: Scope, receive: Receive, send: Send) -> None:
        await layers.get(scope["type"], app)(scope, receive, send)

    return layered
