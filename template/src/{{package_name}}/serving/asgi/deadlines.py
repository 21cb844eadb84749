"""Deadlines: a request whose response has not started in time is cancelled.

It is cancelled by an `anyio.CancelScope`, which waits for a running worker thread. FastAPI shields
the exit of dependencies from it, so a transaction is either committed or rolled back.
"""

import asyncio
import logging
import traceback
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping
from time import perf_counter
from types import FrameType
from typing import Any
from weakref import WeakKeyDictionary

from anyio import CancelScope, get_running_tasks
from fastapi import Depends
from starlette.requests import HTTPConnection
from starlette.types import Scope

from ..budget import REQUEST_TIMEOUT_SECONDS
from ..observability.route_template import matched_route
from .wrap import ROUTED_KEY

logger = logging.getLogger(__name__)

Task = asyncio.Task[Any]
Children = Mapping[int, list[Task]]
_children: WeakKeyDictionary[asyncio.AbstractEventLoop, tuple[float, Children]] = (
    WeakKeyDictionary()
)


def deadline(seconds: float | None) -> Any:
    """Return a dependency that sets the deadline of a route, a router or an application.

    `seconds` is the time from the start of the request to the start of the response; None means no
    deadline: `@router.post("/report", dependencies=[deadline(60)])`. The innermost one applies.
    Raises `ValueError` if `seconds` is not positive or exceeds the template's
    `request_timeout_seconds`, from which all other timeouts are computed.
    """
    if seconds is not None and not 0 < seconds <= REQUEST_TIMEOUT_SECONDS:
        raise ValueError(
            f"deadline({seconds}): more than 0 and at most {REQUEST_TIMEOUT_SECONDS} seconds, "
            "the request_timeout_seconds of this service (.copier-answers.yml)"
        )
    return Depends(DeclaredDeadline(seconds))


class DeclaredDeadline:
    """A dependency that sets the deadline of its request."""

    def __init__(self, seconds: float | None) -> None:
        self.seconds = seconds

    async def __call__(self, connection: HTTPConnection) -> None:
        """Set the deadline of this request."""
        current = connection.scope.get(ROUTED_KEY)
        if isinstance(current, Deadline):  # a WebSocket has none
            current.move(self.seconds)


def declared(scope: Scope) -> DeclaredDeadline | None:
    """Return the deadline that the matched route declares, or None.

    Dependencies run only after the body has been read, which may be too late.
    """
    dependant = getattr(matched_route(scope), "dependant", None)
    dependencies = getattr(dependant, "dependencies", ())
    deadlines = [d.call for d in dependencies if isinstance(d.call, DeclaredDeadline)]
    return deadlines[-1] if deadlines else None


class Deadline:
    """The deadline of one request."""

    __slots__ = (
        *("deadlines", "scope", "started", "seconds", "cancel_scope", "task", "timer"),
        *("is_over", "expired", "stack"),
    )

    def __init__(self, deadlines: "Deadlines", scope: Scope, started: float) -> None:
        self.deadlines = deadlines
        self.scope = scope
        self.started = started
        self.seconds: float | None = deadlines.seconds
        self.cancel_scope = deadlines.cancel_scope_class()
        self.task = asyncio.current_task(deadlines.loop)
        self.timer: asyncio.TimerHandle | None = None  # only if the route declares a deadline
        self.is_over = self.expired = False
        self.stack = ""

    def end(self) -> None:
        """Stop the deadline: the response has started, or the request has ended."""
        if self.is_over:
            return
        self.is_over = True
        self.deadlines.waiting.pop(self, None)
        self.scope.pop(ROUTED_KEY, None)  # it would be a reference cycle
        if self.timer:
            self.timer.cancel()

    def move(self, seconds: float | None) -> None:
        """Change the deadline to `seconds` after the start of the request."""
        self.deadlines.waiting.pop(self, None)
        if self.timer:
            self.timer.cancel()
        self.seconds = seconds
        if seconds is not None:
            remaining = self.started + seconds - perf_counter()
            self.timer = call_later(remaining, self.expire)

    def expire(self) -> None:
        """Cancel the request, unless its route declares another deadline."""
        if self.is_over:
            return
        if (route := declared(self.scope)) and route.seconds != self.seconds:
            self.move(route.seconds)
            return
        self.end()
        self.expired = True
        stack = frames(self.task, running_children())
        self.stack = "".join(traceback.StackSummary.extract(stack).format())
        self.cancel_scope.cancel()

    def log(self, error: BaseException | None) -> None:
        """Log a cancelled request, with the stack at its deadline and the exception it raised."""
        logger.error(
            "No response within %s s: cancelled %s %s",
            *(self.seconds, self.scope["method"], self.scope["path"]),
            exc_info=error,
            extra={"stack": self.stack},
        )


class Deadlines:
    """The deadlines of an event loop; those of the default length share one timer."""

    def __init__(self, seconds: float) -> None:
        self.seconds = seconds
        self.loop = asyncio.get_running_loop()
        self.waiting: dict[Deadline, None] = {}  # oldest first
        self.timer: asyncio.TimerHandle | None = None
        # `CancelScope()` would look up the class for this event loop on each call.
        self.cancel_scope_class = type(CancelScope())

    def begin(self, scope: Scope, started: float) -> Deadline:
        """Start the deadline of a request that began at `started`, a value of `perf_counter()`."""
        deadline = scope[ROUTED_KEY] = Deadline(self, scope, started)
        self.waiting[deadline] = None
        if self.timer is None:
            self.timer = call_later(self.seconds, self.expire)
        return deadline

    def expire(self) -> None:
        """Expire the deadlines that are due, and set the timer for the next one."""
        self.timer = None
        for deadline in list(self.waiting):
            remaining = deadline.started + self.seconds - perf_counter()
            if remaining > 0:
                self.timer = call_later(remaining, self.expire)
                return
            deadline.expire()


def running_children() -> Children:
    """Return the tasks of this event loop by the ID of their parent task.

    The result is cached briefly, because many requests may expire at once.
    """
    loop = asyncio.get_running_loop()
    if (cached := _children.get(loop)) and loop.time() < cached[0] + 0.05:
        return cached[1]
    tasks = {id(task): task for task in asyncio.all_tasks()}
    children = defaultdict(list)
    for info in get_running_tasks():
        if info.parent_id and info.id in tasks:
            children[info.parent_id].append(tasks[info.id])
    _children[loop] = loop.time(), children
    return children


def call_later(seconds: float, function: Callable[[], None]) -> asyncio.TimerHandle:
    """Call a function after a delay, in a task: with sniffio installed, anyio requires one."""
    loop = asyncio.get_running_loop()

    async def call() -> None:
        function()

    return loop.call_later(seconds, lambda: loop.create_task(call()))


def frames(task: Task | None, children: Children) -> Iterator[tuple[FrameType, int]]:
    """Yield the frames in which a task waits, then those of its child tasks, innermost last."""
    waiting: Any = task.get_coro() if task else None
    while frame := getattr(waiting, "cr_frame", None) or getattr(waiting, "ag_frame", None):
        yield frame, frame.f_lineno
        waiting = getattr(waiting, "cr_await", None) or getattr(waiting, "ag_await", None)
    for child in children.get(id(task), ()):
        yield from frames(child, children)
