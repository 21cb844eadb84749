"""What makes the service ready for production. The template's: `copier update` refreshes it."""

from fastapi import FastAPI
from starlette.middleware.gzip import GZipMiddleware

from . import errors, health
from .lifecycle import Lifecycle
from .readiness import Readiness
from .settings import Environment, ServingSettings, load

__all__ = ["Environment", "ServingSettings", "install", "load"]


def install(app: FastAPI, settings: ServingSettings) -> None:
    """Give `app` everything that serves it. Call it once, before adding routes."""
    readiness = Readiness()

    errors.install(app)
    app.include_router(health.router(readiness))

    # The last one added is the first to see a request.
    app.add_middleware(GZipMiddleware, minimum_size=1024, compresslevel=5)
    app.add_middleware(
        Lifecycle,
        environment=settings.environment,
        threads=settings.threads,
        readiness=readiness,
    )
