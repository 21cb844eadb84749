"""Whether the service wants traffic: by the life of its process, and by what the team checks."""

import asyncio
import logging
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from enum import StrEnum

from pydantic import BaseModel

logger = logging.getLogger("uvicorn.error")

# Seconds that the outcome of all checks is good for: whoever asks meanwhile gets the same.
FRESH_SECONDS = 1.0


# Awaits what it depends on.
Ask = Callable[[], Awaitable[object]]


class Availability(StrEnum):
    """The life of a process, as a load balancer sees it."""

    STARTING = "starting"
    READY = "ready"
    DRAINING = "draining"
    # Ready, but for a required check.
    UNAVAILABLE = "unavailable"


class Outcome(StrEnum):
    """What came of a check."""

    OK = "ok"
    FAILED = "failed"
    TIMEOUT = "timeout"


class Report(BaseModel):
    """What readiness answers: no more than names and states."""

    status: Availability
    checks: dict[str, Outcome] | None = None


@dataclass(frozen=True)
class Check:
    """A question to something that the service depends on."""

    ask: Ask
    timeout: float
    required: bool


class Readiness:
    """The availability of this process, and the checks that the team has added."""

    def __init__(self) -> None:
        self.availability = Availability.STARTING
        self._checks: dict[str, Check] = {}
        self._outcomes: dict[str, Outcome] = {}
        self._running: asyncio.Task[dict[str, Outcome]] | None = None
        self._fresh_until = 0.0

    def add(
        self,
        name: str,
        check: Ask,
        *,
        timeout: float = 2.0,
        required: bool = False,
    ) -> None:
        """Ask `check` for readiness; it fails when it raises, returns False or takes too long.

        Not `required`, it is reported and no more: when something fails that all instances share,
        they would all go at once, and nothing be served at all. Require what only a part of them
        can lose, or what nothing works without. The `timeout`, in seconds, is to be shorter than
        that of whoever asks. Raises `ValueError` for a name that is taken.
        """
        if name in self._checks:
            raise ValueError(f"there is a check {name!r} already")
        self._checks[name] = Check(check, timeout, required)

    async def report(self) -> Report:
        """The availability, with the outcome of each check; all of them are asked at once."""
        if not self._checks or self.availability is not Availability.READY:
            return Report(status=self.availability)
        outcomes = await self._fresh_outcomes()
        required = [outcome for name, outcome in outcomes.items() if self._checks[name].required]
        up = all(outcome is Outcome.OK for outcome in required)
        status = self.availability if up else Availability.UNAVAILABLE
        return Report(status=status, checks=outcomes)

    async def _fresh_outcomes(self) -> dict[str, Outcome]:
        """One run for everybody who asks while it lasts, and for a moment after it."""
        loop = asyncio.get_running_loop()
        running = self._running
        if running and running.done() and loop.time() >= self._fresh_until:
            running = None
        if running is None or running.get_loop() is not loop:
            running = self._running = loop.create_task(self._ask_all())
        return await asyncio.shield(running)  # one who leaves doesn't end it for the others

    async def _ask_all(self) -> dict[str, Outcome]:
        try:
            outcomes = await asyncio.gather(*map(self._ask, self._checks))
            return dict(zip(self._checks, outcomes, strict=True))
        finally:
            self._fresh_until = asyncio.get_running_loop().time() + FRESH_SECONDS

    async def _ask(self, name: str) -> Outcome:
        check, reason = self._checks[name], ""
        try:
            async with asyncio.timeout(check.timeout):
                outcome = Outcome.FAILED if await check.ask() is False else Outcome.OK
        except TimeoutError:
            outcome = Outcome.TIMEOUT
        except Exception as error:
            outcome, reason = Outcome.FAILED, f" ({type(error).__name__}: {error})"
        if outcome is not self._outcomes.get(name, Outcome.OK):  # a line for each change
            logger.warning("Check %s: %s%s", name, outcome, reason)
        self._outcomes[name] = outcome
        return outcome
