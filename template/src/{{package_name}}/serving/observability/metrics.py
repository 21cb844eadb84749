"""Metrics for Prometheus; each label has a bounded number of values."""

import asyncio
import logging
import platform

from anyio.to_thread import current_default_thread_limiter
from prometheus_client import Gauge, Histogram

from ..asgi.limits import Limits
from ..budget import REQUEST_TIMEOUT_SECONDS
from ..process.shared import sample_process

logger = logging.getLogger(__name__)

STEPS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120, 300, 600, 1800)


def gauge(name: str, documentation: str) -> Gauge:
    """Return a gauge that is summed over the running processes."""
    return Gauge(name, documentation, multiprocess_mode="livesum")


DURATION = Histogram(
    "http_request_duration_seconds",
    "From the request's headers to the end of the response",
    ("method", "route", "status"),
    # From a cached response to a request that uses its whole budget.
    buckets=(*(s for s in STEPS if s < REQUEST_TIMEOUT_SECONDS), REQUEST_TIMEOUT_SECONDS),
)
IN_FLIGHT = gauge("http_requests_in_flight", "Requests in flight, sampled each second")
IN_FLIGHT_LIMIT = gauge(
    "http_requests_in_flight_limit", "MAX_CONCURRENCY: requests beyond it get 503"
)
WEBSOCKETS_OPEN = gauge("websockets_open", "Open WebSockets, sampled each second")
WEBSOCKET_DURATION = Histogram(
    "websocket_duration_seconds",
    "From the handshake to the end of a WebSocket",
    ("route", "close_code"),
    buckets=(1, 10, 60, 600, 3600, 4 * 3600, 24 * 3600),
)
THREADS_IN_USE = gauge("threads_in_use", "Worker threads that run, sampled each second")
THREADS_WAITING = gauge("threads_waiting", "Calls that wait for a worker thread, sampled likewise")
THREADS_LIMIT = gauge("threads_limit", "THREADS: worker threads that may run at once")
LOOP_LAG = Histogram(
    "event_loop_lag_seconds",
    "Delay of the event loop, measured each second",
    buckets=(0.001, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5),
)
INFO = Gauge("app_info", "Versions", ("version", "python"), multiprocess_mode="livemax")


async def sample(version: str, limits: Limits) -> None:
    """Sample the gauges every second, until cancelled.

    Updating them on each request would slow requests down.
    """
    clock = asyncio.get_running_loop().time
    failing = False
    while True:
        try:
            sample_once(version, limits)
            failing = False
        except Exception:  # for example no free file descriptor
            if not failing:
                logger.exception("Metrics could not be sampled; the next try is in a second")
            failing = True
        due = clock() + 1
        await asyncio.sleep(1)
        LOOP_LAG.observe(max(0.0, clock() - due))


def sample_once(version: str, limits: Limits) -> None:
    """Set every gauge."""
    INFO.labels(version, platform.python_version()).set(1)
    IN_FLIGHT.set(limits.in_flight)
    IN_FLIGHT_LIMIT.set(limits.max_concurrency)
    WEBSOCKETS_OPEN.set(limits.websockets_open)
    threads = current_default_thread_limiter()
    THREADS_IN_USE.set(threads.borrowed_tokens)
    THREADS_WAITING.set(threads.statistics().tasks_waiting)
    THREADS_LIMIT.set(threads.total_tokens)
    sample_process()
