"""What the service's environment must be on a host, beside the settings."""

import os
import re
from collections.abc import Iterator

from ..settings import Environment, ServingSettings
from . import proxies
from .capacity import worker_count

# What gunicorn would take from GUNICORN_CMD_ARGS though it follows from the budget.
BUDGETED = re.compile(r"(?<!\S)(?:--(?:graceful-)?timeout|--keep-alive|-t)(?![\w-])")


def variables() -> dict[str, str]:
    """What the server reads by itself, with what it makes of nothing."""
    bind = os.environ.get("BIND", "127.0.0.1:8000")
    return {
        "WEB_CONCURRENCY": os.environ.get("WEB_CONCURRENCY") or str(worker_count()),
        "BIND": "" if _under_systemd() else bind,
        proxies.VARIABLE: proxies.trusted(),
    }


def faults(settings: ServingSettings) -> Iterator[str]:
    """A line for each variable that doesn't fit."""
    try:
        worker_count()
    except SystemExit as refusal:
        yield str(refusal)
    if option := BUDGETED.search(os.environ.get("GUNICORN_CMD_ARGS", "")):
        yield f"GUNICORN_CMD_ARGS: without {option[0]}, which follows from the request's timeout"
    yield from proxies.misread()
    if settings.environment is Environment.PRODUCTION:
        everybody = proxies.trusted() == proxies.EVERY_PEER
        if _on_unix_socket() and not everybody:
            yield f"{proxies.VARIABLE}: * on a unix socket, where nginx has no address to name"
        if everybody and not _on_unix_socket():
            yield f"{proxies.VARIABLE}: the address of nginx; with * any client can forge its own"


def _on_unix_socket() -> bool:
    return _under_systemd() or os.environ.get("BIND", "").startswith("unix:")


def _under_systemd() -> bool:
    """Then the socket is that of the socket unit, whatever BIND says."""
    return "INVOCATION_ID" in os.environ
