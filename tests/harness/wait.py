"""Waiting for a condition."""

import time
from collections.abc import Callable

WAIT_SECONDS = 120
"""Much longer than any wait of an idle machine, because the tests use every core."""


def wait_until(
    condition: Callable[[], object],
    what: str,
    explain: Callable[[], str] = str,
    *,
    seconds: float = WAIT_SECONDS,
) -> None:
    """Wait until `condition` is true.

    Raises `AssertionError` with `what` and the result of `explain` after `seconds`.
    """
    started = time.monotonic()
    while not condition():
        waited = time.monotonic() - started
        if waited > seconds:
            raise AssertionError(f"not {what} after {seconds} s:\n{explain()}")
        time.sleep(min(max(waited / 10, 0.05), 1))  # less often later: a condition costs CPU time
