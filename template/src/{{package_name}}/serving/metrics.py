"""What the service counts, for Prometheus: a pass over each request, and nothing unbounded."""

from time import perf_counter

from prometheus_client import Gauge, Histogram
from starlette.types import ASGIApp, Message, Receive, Scope, Send

METHODS = frozenset({"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"})

DURATION = Histogram(
    "http_request_duration_seconds",
    "From the request's headers to the end of the response",
    ("method", "route", "status"),
    # From a cached answer to a request that uses its whole budget.
    buckets=(0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60),
)
IN_FLIGHT = Gauge(
    "http_requests_in_flight",
    "Requests that are being answered",
    multiprocess_mode="livesum",
)


class Metrics:
    """Counts requests by method, route template and status, and how long they took."""

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return

        status = 500  # unless the application says something else

        async def send_and_note(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
            await send(message)

        start = perf_counter()
        IN_FLIGHT.inc()
        try:
            await self.app(scope, receive, send_and_note)
        finally:
            IN_FLIGHT.dec()
            method = scope["method"] if scope["method"] in METHODS else "other"
            DURATION.labels(method, route_template(scope), status).observe(perf_counter() - start)


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
