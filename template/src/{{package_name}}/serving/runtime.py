"""What really runs the service: the event loop, and the HTTP parser of the server."""

import asyncio
import signal
import sys
from dataclasses import dataclass
from importlib.util import find_spec

from uvicorn import Server

PARSERS = {
    "uvicorn.protocols.http.httptools_impl": "httptools",
    "uvicorn.protocols.http.h11_impl": "h11",
}


def running_server() -> Server | None:
    """The uvicorn server of this process; None under a test client, which has none.

    Wherever it runs, uvicorn handles SIGTERM with a method of its `Server` from
    before the lifespan starts until after it ends.
    """
    handler = signal.getsignal(signal.SIGTERM)
    server = getattr(handler, "__self__", None)
    return server if isinstance(server, Server) else None


@dataclass(frozen=True)
class Runtime:
    """The event loop and the HTTP parser in use; no parser means no uvicorn server."""

    loop: str
    parser: str | None

    @classmethod
    def current(cls) -> "Runtime":
        """The runtime of the calling task."""
        loop = type(asyncio.get_running_loop()).__module__.partition(".")[0]
        server = running_server()
        if server is None:
            return cls(loop, None)
        # As the server resolved it: the option may still say "auto".
        module = server.config.http_protocol_class.__module__
        return cls(loop, PARSERS.get(module, module))

    def __str__(self) -> str:
        return f"event loop {self.loop}, HTTP parser {self.parser or 'unknown (no uvicorn server)'}"

    def fault(self) -> str | None:
        """One line that says what is slower than it should be, or None."""
        if self.loop == "uvloop" and self.parser == "httptools":
            return None
        return f"needs uvloop and httptools, runs on {self}: {self._remedy()}"

    def _remedy(self) -> str:
        if self.parser is None:
            return "serve it with uvicorn"
        if find_spec("uvloop") is None:
            if sys.platform in ("win32", "cygwin") or sys.implementation.name == "pypy":
                return "uvloop does not exist here, run it on Linux or macOS with CPython"
            return "install uvicorn[standard]"
        return "start uvicorn with --loop uvloop --http httptools"
