"""The serving layer: everything between the server and the routes.

The template owns it, and `copier update` updates it. Its packages:

- `asgi`: middleware: request ID, limits, deadlines, headers, compression, errors.
- `observability`: logs, access log, metrics, traces.
- `lifecycle`: start, readiness, drain.
- `process`: process model: environment, shared output and metrics, secrets.
"""

from typing import Any

from fastapi import FastAPI

from .asgi import api_docs, errors
from .asgi.deadlines import deadline
from .asgi.limits import Limits
from .asgi.middleware import ServingMiddleware
from .asgi.websockets import WebSocketMiddleware
from .asgi.wrap import wrap
from .lifecycle import health
from .lifecycle.lifespan import Lifespan
from .observability import logs, tracing
from .observability.access_log import AccessLog
from .readiness import Readiness
from .settings import Environment, ServingSettings, load

__all__ = ["Environment", "ServingSettings", "deadline", "fastapi_options", "install", "load"]


def fastapi_options(settings: ServingSettings) -> dict[str, Any]:
    """Return the arguments for `FastAPI()` that follow from `settings`."""
    return {**api_docs.options(settings), **tracing.options()}


def install(app: FastAPI, settings: ServingSettings, *, problems: bool = True) -> Readiness:
    """Put the serving layer around `app`. Call it once, before adding routes.

    `problems=False` keeps FastAPI's error bodies, for clients that depend on them. Returns the
    readiness of the service, to which checks can be added: `readiness.add("database", ping)`.
    """
    log = logs.configure(settings)
    limits = Limits(settings)
    readiness = Readiness()

    tracing.configure(settings)
    errors.install(app, problems=problems)
    health.install(app, readiness)
    api_docs.install(app, settings)

    access_log = AccessLog(app, log, settings.log_level)
    wrap(
        app,
        lifespan=lambda inner: Lifespan(inner, app, settings, readiness, limits),
        http=lambda inner: ServingMiddleware(inner, app, limits, access_log),
        websocket=lambda inner: WebSocketMiddleware(inner, limits, access_log),
    )
    return readiness
