"""Readiness: whether this process should receive traffic, and the checks that decide it."""

import asyncio
import logging
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from enum import StrEnum

from pydantic import BaseModel

logger = logging.getLogger("uvicorn.error")

# Seconds for which results are reused, so that several probes share one run of the checks.
FRESH_SECONDS = 1.0

# Returns False or raises if the dependency is not available.
CheckFunction = Callable[[], Awaitable[object]]


class Availability(StrEnum):
    """Whether a process can receive traffic."""

    STARTING = "starting"
    READY = "ready"
    DRAINING = "draining"
    # Started, but a required check fails.
    UNAVAILABLE = "unavailable"


class Outcome(StrEnum):
    """The result of a check."""

    OK = "ok"
    FAILED = "failed"
    TIMEOUT = "timeout"


class Report(BaseModel):
    """The response of `/health/ready`: names and states only."""

    status: Availability
    checks: dict[str, Outcome] | None = None


@dataclass(frozen=True)
class Check:
    """A check of a dependency; `timeout` is in seconds."""

    function: CheckFunction
    timeout: float
    required: bool


class Readiness:
    """The availability of this process, and the checks added by the service."""

    def __init__(self) -> None:
        self.availability = Availability.STARTING
        self._checks: dict[str, Check] = {}
        self._outcomes: dict[str, Outcome] = {}
        self._running: asyncio.Task[dict[str, Outcome]] | None = None
        self._fresh_until = 0.0
        # Calls that were cancelled at their timeout, by the name of the check.
        self._overdue: dict[str, asyncio.Task[object]] = {}

    def add(
        self,
        name: str,
        check: CheckFunction,
        *,
        timeout: float = 2.0,
        required: bool = False,
    ) -> None:
        """Add a check. It fails if it raises, returns False or exceeds `timeout` seconds.

        A check that is not `required` is only reported. Do not require a dependency that all
        instances share: if it fails, the load balancer would remove every instance at once.
        Keep the `timeout` below that of the probe. Raises `ValueError` if the name exists.
        """
        if name in self._checks:
            raise ValueError(f"a check named {name!r} exists already")
        self._checks[name] = Check(check, timeout, required)

    async def report(self) -> Report:
        """Return the availability and the result of each check; the checks run concurrently."""
        if not self._checks or self.availability is not Availability.READY:
            return Report(status=self.availability)
        outcomes = await self._fresh_outcomes()
        required = [outcome for name, outcome in outcomes.items() if self._checks[name].required]
        up = all(outcome is Outcome.OK for outcome in required)
        status = self.availability if up else Availability.UNAVAILABLE
        return Report(status=status, checks=outcomes)

    async def _fresh_outcomes(self) -> dict[str, Outcome]:
        """Run the checks, or return the results of a run in progress or a recent one."""
        loop = asyncio.get_running_loop()
        running = self._running
        if running and running.done() and loop.time() >= self._fresh_until:
            running = None
        if running is None or running.get_loop() is not loop:
            running = self._running = loop.create_task(self._run_all())
        return await asyncio.shield(running)  # the other probes still wait for it

    async def _run_all(self) -> dict[str, Outcome]:
        try:
            outcomes = await asyncio.gather(*map(self._run, self._checks))
            return dict(zip(self._checks, outcomes, strict=True))
        finally:
            self._fresh_until = asyncio.get_running_loop().time() + FRESH_SECONDS

    async def _run(self, name: str) -> Outcome:
        check, reason = self._checks[name], ""
        try:
            ended = await self._call(name, check)
            outcome = Outcome.FAILED if ended.result() is False else Outcome.OK
        except TimeoutError:
            outcome = Outcome.TIMEOUT
        except Exception as error:
            outcome, reason = Outcome.FAILED, f" ({type(error).__name__}: {error})"
        if outcome is not self._outcomes.get(name, Outcome.OK):  # log changes only
            logger.warning("Check %s: %s%s", name, outcome, reason)
        self._outcomes[name] = outcome
        return outcome

    async def _call(self, name: str, check: Check) -> asyncio.Task[object]:
        """Return the ended call of a check. Raises `TimeoutError` after its timeout.

        It is cancelled then, but not waited for: its clean-up may take longer than a probe waits.
        Until it has ended, the check is not called again.
        """

        async def call() -> object:
            return await check.function()

        overdue = self._overdue.get(name)
        if overdue and not overdue.done() and overdue.get_loop() is asyncio.get_running_loop():
            raise TimeoutError
        called = asyncio.create_task(call())
        try:
            await asyncio.wait({called}, timeout=check.timeout)
        finally:
            if not called.done():
                self._overdue[name] = called
                called.add_done_callback(lambda task: task.cancelled() or task.exception())
                called.cancel()
        if not called.done():
            raise TimeoutError
        return called
