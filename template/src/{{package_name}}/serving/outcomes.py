"""What is said of requests once they are over: one measurement and one line each."""

import asyncio
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime

from starlette.routing import Mount, Route
from starlette.types import Scope

from .health import PATHS
from .logs import Log
from .metrics import DURATION
from .settings import LEVELS, LogLevel

LOGGER = f"{__package__}.requests"
METHODS = frozenset({"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"})
# More than any API has. Where an application is mounted below a parameter, each value is a route.
MOST_OUTCOMES = 1000


@dataclass(frozen=True, slots=True)
class Outcome:
    """What requests have in common that ended alike; made once."""

    method: str
    route: str
    status: int
    level: str | None
    """At which their lines are logged; None for not at all."""
    observe: Callable[[float], None]


class Outcomes:
    """Measures and logs requests, all those of a turn of the event loop together."""

    def __init__(self, log: Log, log_level: LogLevel) -> None:
        self._log = log
        self._silent = LEVELS[: LEVELS.index(log_level)]
        self._known: dict[tuple[str, str, int], Outcome] = {}
        self._waiting: list[tuple[Scope, int, float, int, Mapping[str, str]]] = []

    def add(
        self, scope: Scope, status: int, seconds: float, size: int, ids: Mapping[str, str]
    ) -> None:
        """Take a request that is over: how long it took, how many bytes its body had."""
        if not self._waiting:
            asyncio.get_running_loop().call_soon(self.flush)
        self._waiting.append((scope, status, seconds, size, ids))

    def flush(self) -> None:
        """Measure and log what waits."""
        waiting, self._waiting = self._waiting, []
        now = datetime.now(UTC)
        events = []
        for scope, status, seconds, size, ids in waiting:
            outcome = self._of(scope, status)
            outcome.observe(seconds)
            if outcome.level:
                client = scope["client"]
                event = {
                    "timestamp": now,
                    "level": outcome.level,
                    "logger": LOGGER,
                    "event": "request",
                    "method": outcome.method,
                    "route": outcome.route,
                    "status": status,
                    "duration_ms": int(seconds * 1_000_000) / 1000,
                    "bytes": size,
                    "client": client[0] if client else None,
                    **ids,
                }
                events.append(event)
        self._log.write(events)

    def _of(self, scope: Scope, status: int) -> Outcome:
        """That of a request: one look-up, but for the first of its kind."""
        method = scope["method"] if scope["method"] in METHODS else "other"
        route = route_template(scope)
        known = self._known.get((method, route, status))
        return known or self._new(method, route, status)

    def _new(self, method: str, route: str, status: int) -> Outcome:
        if len(self._known) >= MOST_OUTCOMES:
            route = "other"
        level = "warning" if status >= 500 else "info"
        if route in PATHS and status < 400:  # most of the log, and of no interest
            level = "debug"
        observe = DURATION.labels(method, route, status).observe
        outcome = Outcome(method, route, status, None if level in self._silent else level, observe)
        return self._known.setdefault((method, route, status), outcome)


def route_template(scope: Scope) -> str:
    """The whole path as it was declared, such as `/orders/{id}`; "unmatched" for no route.

    Under nested routers, a route knows the last part of its path only.
    """
    context = scope.get("fastapi", {}).get("effective_route_context")
    if context is not None:
        return str(context.path_format)
    below: str = scope.get("root_path", "")
    route = scope.get("route") or starlette_route(scope)
    if isinstance(route, Mount):  # `below` has its path already
        return below + "/{path}"
    return below + route.path_format if route else "unmatched"


def starlette_route(scope: Scope) -> Route | Mount | None:
    """The one of Starlette that has answered, such as static files: it tells its endpoint only."""
    endpoint = scope.get("endpoint")
    for route in scope["app"].routes if endpoint else ():
        match route:
            case Route(endpoint=found) | Mount(app=found) if found is endpoint:
                return route
    return None
