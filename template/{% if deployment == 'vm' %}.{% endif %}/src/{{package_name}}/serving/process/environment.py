"""Environment variables on a host, in addition to the settings."""

import os
import re
from collections.abc import Iterator

from ..settings import Environment, ServingSettings
from . import proxies
from .capacity import worker_count

# Options in GUNICORN_CMD_ARGS that would override a timeout of the budget.
BUDGETED = re.compile(r"(?<!\S)(?:--(?:graceful-)?timeout|--keep-alive|-t)(?![\w-])")


def variables() -> dict[str, str]:
    """Return the variables that the server reads itself, with its defaults."""
    bind = os.environ.get("BIND", "127.0.0.1:8000")
    return {
        "WEB_CONCURRENCY": os.environ.get("WEB_CONCURRENCY") or str(worker_count()),
        "BIND": "" if _under_systemd() else bind,
        proxies.VARIABLE: proxies.trusted(),
    }


def faults(settings: ServingSettings) -> Iterator[str]:
    """Yield a line for each invalid variable."""
    try:
        worker_count()
    except SystemExit as refusal:
        yield str(refusal)
    if option := BUDGETED.search(os.environ.get("GUNICORN_CMD_ARGS", "")):
        yield f"GUNICORN_CMD_ARGS: without {option[0]}, which follows from the request's timeout"
    yield from proxies.misread()
    if settings.environment is Environment.PRODUCTION:
        trusts_all = proxies.trusted() == proxies.EVERY_PEER
        if _on_unix_socket() and not trusts_all:
            yield f"{proxies.VARIABLE}: * on a unix socket, where nginx has no address to name"
        if trusts_all and not _on_unix_socket():
            yield f"{proxies.VARIABLE}: the address of nginx; with * any client can forge its own"


def _on_unix_socket() -> bool:
    return _under_systemd() or os.environ.get("BIND", "").startswith("unix:")


def _under_systemd() -> bool:
    """Tell whether systemd has started this: then the socket unit applies, not BIND."""
    return "INVOCATION_ID" in os.environ
