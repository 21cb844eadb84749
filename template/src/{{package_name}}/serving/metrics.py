"""What the service counts, for Prometheus, and nothing unbounded."""

import asyncio
import platform
from collections.abc import Callable
from dataclasses import dataclass

from prometheus_client import Gauge, Histogram
from starlette.types import Scope

from .budget import REQUEST_TIMEOUT_SECONDS
from .health import PATHS
from .limits import Limits
from .registry import sample_process
from .settings import LEVELS, LogLevel

METHODS = frozenset({"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"})
# More than any API has. Where an application is mounted below a parameter, each value is a route.
MOST_OUTCOMES = 1000

STEPS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120, 300, 600, 1800)

DURATION = Histogram(
    "http_request_duration_seconds",
    "From the request's headers to the end of the response",
    ("method", "route", "status"),
    # From a cached answer to a request that uses its whole budget.
    buckets=(*(s for s in STEPS if s < REQUEST_TIMEOUT_SECONDS), REQUEST_TIMEOUT_SECONDS),
)
IN_FLIGHT = Gauge(
    "http_requests_in_flight",
    "Requests that are being answered, as of the last second",
    multiprocess_mode="livesum",
)
IN_FLIGHT_LIMIT = Gauge(
    "http_requests_in_flight_limit",
    "How many of them there may be, the next is a 503",
    multiprocess_mode="livesum",
)
LOOP_LAG = Histogram(
    "event_loop_lag_seconds",
    "How much later than asked for the event loop came back, once a second",
    buckets=(0.001, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5),
)
INFO = Gauge("app_info", "What runs", ("version", "python"), multiprocess_mode="livemax")


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
    """Every outcome that requests had."""

    def __init__(self, log_level: LogLevel) -> None:
        self._silent = LEVELS[: LEVELS.index(log_level)]
        self._known: dict[tuple[str, str, int], Outcome] = {}

    def of(self, scope: Scope, status: int) -> Outcome:
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
    route = scope.get("route")
    if route is None:
        return "unmatched"
    return f"{scope.get('root_path', '')}{route.path_format}"


async def sample(version: str, limits: Limits) -> None:
    """Once a second and for ever: what costs no request anything."""
    INFO.labels(version, platform.python_version()).set(1)
    IN_FLIGHT_LIMIT.set(limits.most_at_once)
    clock = asyncio.get_running_loop().time
    while True:
        IN_FLIGHT.set(limits.in_flight)
        sample_process()
        due = clock() + 1
        await asyncio.sleep(1)
        LOOP_LAG.observe(max(0.0, clock() - due))
