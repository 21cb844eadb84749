"""Environment variables on a host, in addition to the settings."""

import os
import re
from collections.abc import Iterator

from ..settings import Environment, ServingSettings
from . import proxies
from .capacity import worker_count

# Options in GUNICORN_CMD_ARGS that would override a computed timeout.
TIMEOUT_OPTION = re.compile(r"(?<!\S)(?:--(?:graceful-)?timeout|--keep-alive|-t)(?![\w-])")


def variables() -> dict[str, str]:
    """Return the variables that the server reads, and their values or defaults."""
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
    if option := TIMEOUT_OPTION.search(os.environ.get("GUNICORN_CMD_ARGS", "")):
        yield f"GUNICORN_CMD_ARGS: remove {option[0]}, it is computed from the request timeout"
    yield from proxies.misread()
    if settings.environment is Environment.PRODUCTION:
        trusts_all = proxies.trusted() == proxies.EVERY_PEER
        if _on_unix_socket() and not trusts_all:
            yield f"{proxies.VARIABLE}: * on a unix socket, because nginx has no address there"
        if trusts_all and not _on_unix_socket():
            yield f"{proxies.VARIABLE}: the address of nginx; with * any client can forge its own"


def _on_unix_socket() -> bool:
    return _under_systemd() or os.environ.get("BIND", "").startswith("unix:")


def _under_systemd() -> bool:
    """Return whether systemd has started this process: then the socket unit replaces BIND."""
    return "INVOCATION_ID" in os.environ
