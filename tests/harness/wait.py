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
    deadline = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > deadline:
            raise AssertionError(f"not {what} after {seconds} s:\n{explain()}")
        time.sleep(0.05)
