"""What makes the service ready for production. The template's: `copier update` refreshes it."""

from functools import partial

from fastapi import FastAPI

from . import browsers, errors, health, logs, requests, tracing
from .lifecycle import Lifecycle
from .limits import Limits
from .outcomes import Outcomes
from .readiness import Readiness
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
    health.install(app, readiness)
    browsers.install(app, settings)

    lifecycle = partial(Lifecycle, settings=settings, readiness=readiness, limits=limits)
    requests.install(app, lifecycle, limits, Outcomes(log, settings.log_level))
    return readiness
