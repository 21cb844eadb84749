"""The gunicorn worker: uvicorn on uvloop and httptools, with a bounded shutdown."""

import asyncio
import mmap
import multiprocessing
import os
import signal
import sys
import time
from typing import Any

from gunicorn.arbiter import Arbiter
from gunicorn.config import Config as Configuration
from gunicorn.glogging import Logger
from gunicorn.workers.base import Worker
from uvicorn import Config, Server

# Imported before the fork, so that each worker starts 80 ms faster and shares their memory.
from uvicorn.lifespan import on as _lifespan  # noqa: F401
from uvicorn.protocols.http import httptools_impl as _http  # noqa: F401
from uvicorn.protocols.websockets import auto as _websockets  # noqa: F401

from ..lifecycle.drain import DRAIN_SECONDS
from ..observability import logs

# Reserved for the lifespan's clean-up, before gunicorn kills the worker.
CLEANUP_SECONDS = 5
# How often the worker reports to the master, and checks that the master is alive.
HEARTBEAT_SECONDS = 1
# TLS settings with the same name in gunicorn and uvicorn.
TLS = ("keyfile", "certfile", "cert_reqs", "ca_certs", "ciphers")

# A worker that does not start is replaced after this delay, if another one has started before.
RETRY_SECONDS = 2

# Created before the fork: all workers share them.
_first_failure = multiprocessing.get_context("fork").Semaphore(1)
_has_started = mmap.mmap(-1, 1)  # one byte: whether a worker of this master has ever started


class ServingLogger(Logger):
    """Propagates gunicorn's records to the root logger, like all others."""

    def setup(self, cfg: Configuration) -> None:
        """Set up logging; also called on a reload, when gunicorn adds its handlers again."""
        super().setup(cfg)  # type: ignore[no-untyped-call]
        logs.propagate_to_root("gunicorn.error")


class ServingWorker(Worker):
    """On SIGTERM, finishes its requests within gunicorn's `graceful_timeout`, then the lifespan."""

    server: Server

    def init_signals(self) -> None:
        """Leave SIGTERM and SIGINT to uvicorn; keep gunicorn's handlers of SIGQUIT and SIGUSR1."""
        for number in self.SIGNALS:
            signal.signal(number, signal.SIG_DFL)
        signal.signal(signal.SIGQUIT, self.handle_quit)
        signal.signal(signal.SIGUSR1, self.handle_usr1)
        signal.siginterrupt(signal.SIGUSR1, False)

    def handle_quit(self, *_: object) -> None:
        """Exit at once, even if a request blocks the event loop or a thread."""
        os._exit(0)

    def run(self) -> None:
        """Serve until a signal; exit with `WORKER_BOOT_ERROR` if the start fails.

        That status stops gunicorn and all workers. So a worker exits with 1 once another one has
        started: what it needs may be away for a moment. A second worker that fails at the start of
        gunicorn exits with 1, too, because gunicorn would print a traceback.
        """
        self.server = Server(self._config())
        try:
            self._load_tls()
            with asyncio.Runner(loop_factory=self.server.config.get_loop_factory()) as runner:
                runner.run(self._serve())
        except SystemExit as exit_:
            if exit_.code != Arbiter.WORKER_BOOT_ERROR:
                raise
            if _has_started[0]:
                self.log.error("A worker did not start: the next attempt is in %s s", RETRY_SECONDS)
                time.sleep(RETRY_SECONDS)
                sys.exit(1)
            if not _first_failure.acquire(block=False):
                sys.exit(1)
            raise

    def _load_tls(self) -> None:
        try:
            self.server.config.load()
        except OSError as error:  # a file can't be read, or OpenSSL rejects it
            files = ", ".join(f"{name}={self.cfg.ssl_options[name]}" for name in TLS[:2])
            self.log.error("TLS does not start with %s: %s", files, error)
            sys.exit(Arbiter.WORKER_BOOT_ERROR)

    def _config(self) -> Config:
        in_flight = self.cfg.graceful_timeout - DRAIN_SECONDS - CLEANUP_SECONDS
        tls: dict[str, Any] = {}
        if self.cfg.is_ssl:
            tls = {f"ssl_{name}": self.cfg.ssl_options[name] for name in TLS}
            # The hook `ssl_context` of gunicorn.conf.py, whose default is uvicorn's own context.
            tls["ssl_context_factory"] = lambda _, default: self.cfg.ssl_context(self.cfg, default)
        return Config(
            self.wsgi,
            loop="uvloop",  # "auto" falls back to asyncio and h11 silently
            http="httptools",
            lifespan="on",  # "auto" serves without a lifespan whose start has raised an exception
            log_config=None,
            server_header=False,
            forwarded_allow_ips=self.cfg.forwarded_allow_ips,
            backlog=self.cfg.backlog,
            limit_max_requests=self.max_requests,
            timeout_keep_alive=self.cfg.keepalive,
            timeout_graceful_shutdown=max(1, int(in_flight)),
            timeout_notify=HEARTBEAT_SECONDS,
            callback_notify=self._beat,
            **tls,
        )

    async def _serve(self) -> None:
        # Not gunicorn's wrappers, which uvloop would close twice and log an error.
        await self.server.serve(sockets=[listener.sock for listener in self.sockets])
        if not self.server.started:
            sys.exit(Arbiter.WORKER_BOOT_ERROR)

    async def _beat(self) -> None:
        _has_started[0] = 1
        self.notify()  # type: ignore[no-untyped-call]
        if os.getppid() != self.ppid:  # the master is gone
            self.server.should_exit = True
