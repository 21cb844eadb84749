"""What makes the service ready for production. The template's: `copier update` refreshes it."""

from typing import TYPE_CHECKING

from .settings import Environment, ServingSettings, load

if TYPE_CHECKING:
    from fastapi import FastAPI

    from .readiness import Readiness

__all__ = ["Environment", "ServingSettings", "install", "load"]


def install(app: "FastAPI", settings: ServingSettings) -> "Readiness":
    """Give `app` everything that serves it. Call it once, before adding routes.

    Returns its readiness, which takes checks: `readiness.add("database", ping)`.
    """
    # Here, because whoever only reads the settings should not wait for FastAPI.
    from . import browsers, errors, health
    from .compression import Compression
    from .lifecycle import Lifecycle
    from .metrics import Metrics
    from .readiness import Readiness

    readiness = Readiness()

    errors.install(app)
    app.include_router(health.router(readiness))

    # The last one added is the first to see a request.
    app.add_middleware(Compression)
    browsers.install(app, settings)
    app.add_middleware(Metrics)
    app.add_middleware(Lifecycle, settings=settings, readiness=readiness)
    return readiness
