"""The serving layer: everything between the server and the routes.

It belongs to the template, and `copier update` refreshes it. Its rooms:

- `asgi`: what happens to each request: limits, deadline, headers, compression, errors.
- `observability`: logs, access log, metrics, traces.
- `lifecycle`: start, readiness, drain.
- `process`: what depends on the processes that run the service.
"""

from typing import Any

from fastapi import FastAPI

from .asgi import api_docs, errors
from .asgi.deadlines import deadline
from .asgi.limits import Limits
from .asgi.middleware import ServingMiddleware, wrap
from .lifecycle import health
from .lifecycle.lifespan import Lifespan
from .lifecycle.readiness import Readiness
from .observability import logs, tracing
from .observability.access_log import AccessLog
from .settings import Environment, ServingSettings, load

__all__ = ["Environment", "ServingSettings", "deadline", "fastapi_options", "install", "load"]


def fastapi_options(settings: ServingSettings) -> dict[str, Any]:
    """Return the arguments for `FastAPI()` that follow from `settings`."""
    return {
        "max_body_size": settings.max_body_bytes,
        **api_docs.options(settings),
        **tracing.options(),
    }


def install(app: FastAPI, settings: ServingSettings) -> Readiness:
    """Put the serving layer around `app`. Call it once, before adding routes.

    Returns the readiness of the service, which takes checks: `readiness.add("database", ping)`.
    """
    log = logs.configure(settings)
    limits = Limits(settings)
    readiness = Readiness()

    tracing.configure(settings)
    errors.install(app)
    health.install(app, readiness)
    api_docs.install(app, settings)
    if app.max_body_size is None:
        app.max_body_size = settings.max_body_bytes

    lifespan = Lifespan(app, settings, readiness, limits)
    wrap(app, ServingMiddleware(app, lifespan, limits, AccessLog(app, log, settings.log_level)))
    return readiness
