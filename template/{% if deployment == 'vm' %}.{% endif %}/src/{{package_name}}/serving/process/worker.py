"""The gunicorn worker: uvicorn on uvloop and httptools, with a bounded shutdown."""

import multiprocessing
import sys
from typing import Any

from gunicorn.arbiter import Arbiter
from gunicorn.config import Config
from gunicorn.glogging import Logger
from uvicorn_worker import UvicornWorker

from ..lifecycle.drain import DRAIN_SECONDS
from ..observability import logs

# Left to the lifespan's clean-up before gunicorn kills the worker.
CLEANUP_SECONDS = 5

# Made before the fork: all workers share it.
_first_to_fail = multiprocessing.get_context("fork").Semaphore(1)


class ServingLogger(Logger):
    """gunicorn's own lines are written by the root logger, like all others."""

    def setup(self, cfg: Config) -> None:
        """Also on a reload, which sets gunicorn's handlers up again."""
        super().setup(cfg)  # type: ignore[no-untyped-call]
        logs.take_over("gunicorn.error")


class ServingWorker(UvicornWorker):
    """Finishes its requests within gunicorn's `graceful_timeout`, then runs the lifespan's end.

    `UvicornWorker` alone waits without a bound and is killed before its clean-up.
    """

    # "auto" falls back to asyncio and h11 in silence.
    CONFIG_KWARGS: dict[str, Any] = {  # noqa: RUF012, as the base class declares it
        "loop": "uvloop",
        "http": "httptools",
        "server_header": False,
    }

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        logs.take_over("uvicorn.error")  # from gunicorn's handlers
        in_flight = self.cfg.graceful_timeout - DRAIN_SECONDS - CLEANUP_SECONDS
        self.config.timeout_graceful_shutdown = max(1, int(in_flight))

    def run(self) -> None:
        """Serve until told to stop; a failed start stops the master as well.

        gunicorn halts on one worker that can't boot, but on the second it ends in a traceback.
        """
        try:
            super().run()
        except SystemExit as failure:
            could_not_boot = failure.code == Arbiter.WORKER_BOOT_ERROR
            if could_not_boot and not _first_to_fail.acquire(block=False):
                sys.exit(1)
            raise
