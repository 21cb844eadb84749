"""The lifespan of the serving layer: checks before the start, metrics, readiness, drain."""

import asyncio
import logging
import sys
import threading

from anyio.to_thread import current_default_thread_limiter
from fastapi import FastAPI
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from ..asgi.limits import Limits
from ..observability import metrics, metrics_server
from ..readiness import Availability, Readiness
from ..settings import Environment, ServingSettings
from ..uvicorn_server import running_server
from .drain import drain_before_shutdown
from .runtime import Runtime

logger = logging.getLogger(__name__)

# How long a thread may hold the GIL. With Python's default of 5 ms, each step of a health check
# would wait 5 ms for every CPU-bound thread.
SWITCH_SECONDS = 0.001


class Lifespan:
    """Checks the runtime before the application starts, serves metrics and sets readiness."""

    def __init__(
        self,
        app: ASGIApp,
        fastapi: FastAPI,
        settings: ServingSettings,
        readiness: Readiness,
        limits: Limits,
    ) -> None:
        self.app = app
        self.fastapi = fastapi
        self.settings = settings
        self.readiness = readiness
        self.limits = limits

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        stop_metrics, fault = None, self._check_runtime()
        if not fault and (server := running_server()):
            host, port = self.settings.metrics_host, self.settings.metrics_port
            try:
                stop_metrics = await metrics_server.start(server, host, port)
            except OSError as error:
                # From "error while attempting to bind on address …: address already in use"
                reason = str(error.strerror).rpartition(": ")[2]
                fault = f"METRICS_HOST={host}, METRICS_PORT={port}: {reason}"
                if self.settings.environment is Environment.DEVELOPMENT:
                    logger.warning("No metrics: %s", fault)
                    fault = None
        if fault:
            await send({"type": "lifespan.startup.failed", "message": fault})
            raise RuntimeError(fault)

        current_default_thread_limiter().total_tokens = self.settings.threads
        sys.setswitchinterval(SWITCH_SECONDS)

        async def send_and_update(message: Message) -> None:
            if message["type"] == "lifespan.startup.complete":
                self._start_serving()
            elif message["type"].startswith("lifespan.shutdown") and stop_metrics:
                stop_metrics()
            await send(message)

        sampling = asyncio.create_task(metrics.sample(self.fastapi.version, self.limits))
        try:
            await self.app(scope, receive, send_and_update)
        finally:
            sampling.cancel()

    def _check_runtime(self) -> str | None:
        """Return a fault that prevents the start, or None; outside production only log it."""
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

    def _start_serving(self) -> None:
        self.readiness.availability = Availability.READY
        server = running_server()
        # Not with --reload: a restart should be quick, and there is no load balancer.
        if server and not server.config.should_reload:
            drain_before_shutdown(server, announce=self._start_draining)

    def _start_draining(self) -> None:
        self.readiness.availability = Availability.DRAINING
