"""Access log and metrics of completed requests and WebSockets."""

import asyncio
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from fastapi import FastAPI
from starlette.types import Scope

from ..lifecycle.health import PATHS
from ..settings import LEVELS, LogLevel
from . import metrics
from .logs import Log
from .route_template import route_template

LOGGER = f"{__package__}.access_log"
METHODS = frozenset(
    {"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS", "QUERY", "TRACE", "CONNECT"}
)


@dataclass(frozen=True, slots=True)
class Outcome:
    """Metric and line renderer of requests with the same method, route and status."""

    observe: Callable[[float], None]
    render: Callable[[datetime, dict[str, Any]], bytes] | None
    """Renders a line from a time and the other fields; None if they are not logged."""


class AccessLog:
    """Metrics and log lines of requests, in one batch per iteration of the event loop."""

    def __init__(self, app: FastAPI, log: Log, log_level: LogLevel) -> None:
        self._app = app
        self._log = log
        self._silent = LEVELS[: LEVELS.index(log_level)]
        self._outcomes: dict[tuple[str, str, int], Outcome] = {}
        self._waiting: list[tuple[Scope, int, float, int, Mapping[str, str]]] = []

    def add(
        self, scope: Scope, status: int, seconds: float, size: int, ids: Mapping[str, str]
    ) -> None:
        """Add a completed request; `size` is the length of its response body in bytes."""
        if not self._waiting:
            asyncio.get_running_loop().call_soon(self.flush)
        self._waiting.append((scope, status, seconds, size, ids))

    def flush(self) -> None:
        """Observe and log the requests added since the last call."""
        waiting, self._waiting = self._waiting, []
        now = datetime.now(UTC)
        lines = []
        for scope, status, seconds, size, ids in waiting:
            outcome = self._outcome(scope, status)
            outcome.observe(seconds)
            if outcome.render:
                client = scope.get("client")
                fields = {
                    "duration_ms": int(seconds * 1_000_000) / 1000,
                    "bytes": size,
                    "client": client[0] if client else None,
                    **ids,
                }
                lines.append(outcome.render(now, fields))
        if lines:
            self._log.write(lines)

    def add_websocket(
        self,
        scope: Scope,
        status: int,
        close_code: int | None,
        close_label: str,
        seconds: float,
        ids: Mapping[str, str],
    ) -> None:
        """Log a WebSocket that has ended; `close_code` is None if its handshake was refused."""
        route = route_template(self._app, scope)
        if close_code is None:  # a GET request with an HTTP response
            metrics.DURATION.labels("GET", route, status).observe(seconds)
        else:
            metrics.WEBSOCKET_DURATION.labels(route, close_label).observe(seconds)
        if "info" in self._silent:
            return
        client = scope.get("client")
        event: dict[str, Any] = {
            "timestamp": datetime.now(UTC),
            "level": "info",
            "logger": LOGGER,
            "event": "websocket",
            "route": route,
            "status": status,
            "close_code": close_code,
            "duration_ms": int(seconds * 1_000_000) / 1000,
            "client": client[0] if client else None,
            **ids,
        }
        asyncio.get_running_loop().call_soon(self._log.write, [self._log.render(event)])

    def _outcome(self, scope: Scope, status: int) -> Outcome:
        method = scope["method"] if scope["method"] in METHODS else "other"
        route = route_template(self._app, scope)
        outcome = self._outcomes.get((method, route, status))
        if outcome is None:
            level = "warning" if status >= 500 else "info"
            if route in PATHS and status < 400:  # frequent and rarely of interest
                level = "debug"
            common = {
                "level": level,
                "logger": LOGGER,
                "event": "request",
                "method": method,
                "route": route,
                "status": status,
            }
            outcome = self._outcomes[method, route, status] = Outcome(
                metrics.DURATION.labels(method, route, status).observe,
                None if level in self._silent else self._log.renderer(common),
            )
        return outcome
