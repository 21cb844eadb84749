"""What makes the service ready for production. The template's: `copier update` refreshes it."""

from fastapi import FastAPI
from starlette.types import ASGIApp

from . import browsers, errors, health, logs, tracing
from .compression import Compression
from .lifecycle import Lifecycle
from .limits import Limits
from .metrics import Outcomes
from .readiness import Readiness
from .requests import Requests
from .settings import Environment, ServingSettings, load

__all__ = ["Environment", "ServingSettings", "install", "load"]


def install(app: FastAPI, settings: ServingSettings) -> Readiness:
    """Give `app` everything that serves it. Call it once, before adding routes.

    Returns its readiness, which takes checks: `readiness.add("database", ping)`.
    """
    log = logs.configure(settings)
    limits = Limits(settings)
    readiness = Readiness()

    tracing.install(app, settings)
    errors.install(app)
    app.include_router(health.router(readiness))

    # The last one added is the first to see a request.
    app.add_middleware(Compression)
    browsers.install(app, settings)
    app.add_middleware(Lifecycle, settings=settings, readiness=readiness, limits=limits)

    # Around them all, and around those that the service adds.
    build = app.build_middleware_stack

    def build_and_wrap() -> ASGIApp:
        return Requests(build(), limits=limits, log=log, outcomes=Outcomes(settings.log_level))

    app.build_middleware_stack = build_and_wrap  # type: ignore[method-assign]
    return readiness
