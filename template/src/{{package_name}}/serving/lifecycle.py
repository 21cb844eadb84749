"""From starting to drained: the checks before the service starts, and its readiness."""

import asyncio
import logging
import sys
import threading
from typing import TYPE_CHECKING

from anyio.to_thread import current_default_thread_limiter
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from .drain import drain_before_shutdown
from .exposition import expose
from .limits import Limits
from .metrics import sample
from .readiness import Availability, Readiness
from .runtime import Runtime, running_server
from .settings import Environment, ServingSettings

if TYPE_CHECKING:
    from collections.abc import Callable

logger = logging.getLogger(__name__)

# How long a thread may compute before the event loop gets its turn: Python's 5 ms, times the
# threads that compute, would pass between any two steps of a health check.
SWITCH_SECONDS = 0.001


class Lifecycle:
    """Checks the runtime before the application starts and follows it until it is drained."""

    def __init__(
        self, app: ASGIApp, *, settings: ServingSettings, readiness: Readiness, limits: Limits
    ) -> None:
        self.app = app
        self.settings = settings
        self.readiness = readiness
        self.limits = limits
        self.stop_metrics: Callable[[], None] | None = None

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "lifespan":
            await self.app(scope, receive, send)
            return

        if fault := self._check_runtime() or await self._expose_metrics():
            await send({"type": "lifespan.startup.failed", "message": fault})
            raise RuntimeError(fault)

        current_default_thread_limiter().total_tokens = self.settings.threads
        sys.setswitchinterval(SWITCH_SECONDS)

        async def send_and_follow(message: Message) -> None:
            if message["type"] == "lifespan.startup.complete":
                self._ready()
            elif message["type"].startswith("lifespan.shutdown") and self.stop_metrics:
                self.stop_metrics()
            await send(message)

        sampling = asyncio.create_task(sample(scope["app"].version, self.limits))
        try:
            await self.app(scope, receive, send_and_follow)
        finally:
            sampling.cancel()

    def _check_runtime(self) -> str | None:
        """The line that stops the start in production, or None; elsewhere it is a warning."""
        runtime = Runtime.current()
        if runtime.parser is None and threading.current_thread() is not threading.main_thread():
            logger.info("No server: a test client runs this on %s", runtime)
            return None
        fault = runtime.fault()
        if fault and self.settings.environment is Environment.PRODUCTION:
            return f"ENVIRONMENT=production {fault}"
        if fault:
            logger.warning("%s: %s", self.settings.environment, fault)
        else:
            logger.info("Runs on %s", runtime)
        return None

    async def _expose_metrics(self) -> str | None:
        """The line that stops the start when the port is taken; in development it is a warning."""
        server = running_server()
        if server is None:
            return None
        host, port = self.settings.metrics_host, self.settings.metrics_port
        try:
            self.stop_metrics = await expose(server, host, port)
        except OSError as error:
            # Of "error while attempting to bind on address …: address already in use"
            reason = str(error.strerror).rpartition(": ")[2]
            fault = f"METRICS_HOST={host}, METRICS_PORT={port}: {reason}"
            if self.settings.environment is not Environment.DEVELOPMENT:
                return fault
            logger.warning("No metrics: %s", fault)
        return None

    def _ready(self) -> None:
        self.readiness.availability = Availability.READY
        server = running_server()
        # A reload is to be quick, and nobody waits behind a load balancer for it.
        if server and not server.config.should_reload:
            drain_before_shutdown(server, announce=self._draining)

    def _draining(self) -> None:
        self.readiness.availability = Availability.DRAINING
