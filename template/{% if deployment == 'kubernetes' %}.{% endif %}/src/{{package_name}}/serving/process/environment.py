"""Environment variables in a pod, in addition to the settings."""

import os
from collections.abc import Iterator

from ..settings import Environment, ServingSettings
from . import proxies


def variables() -> dict[str, str]:
    """Return the variables that the server reads, and their values or defaults."""
    return {
        "WEB_CONCURRENCY": os.environ.get("WEB_CONCURRENCY", "1"),
        proxies.VARIABLE: proxies.trusted(),
    }


def faults(settings: ServingSettings) -> Iterator[str]:
    """Yield a line for each invalid variable."""
    for name in ("WEB_CONCURRENCY", "UVICORN_WORKERS"):
        if os.environ.get(name, "1") != "1":
            yield f"{name}: 1, a pod has one process: add pods instead"
    yield from proxies.misread()
    if proxies.trusted() == proxies.EVERY_PEER and settings.environment is Environment.PRODUCTION:
        yield f"{proxies.VARIABLE}: the network of the ingress; with * any client can forge its own"
