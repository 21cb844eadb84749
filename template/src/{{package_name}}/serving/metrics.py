"""What the service counts, for Prometheus, and nothing unbounded."""

import asyncio
import platform

from prometheus_client import Gauge, Histogram

from .budget import REQUEST_TIMEOUT_SECONDS
from .limits import Limits
from .registry import sample_process

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
