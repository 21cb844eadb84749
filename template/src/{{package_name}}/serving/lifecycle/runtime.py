"""The runtime check: event loop and HTTP parser of the running server."""

import asyncio
import sys
from dataclasses import dataclass
from importlib.util import find_spec

from ..uvicorn_server import parser_name, running_server


@dataclass(frozen=True)
class Runtime:
    """The event loop and the HTTP parser in use; no parser means no uvicorn server."""

    loop: str
    parser: str | None

    @classmethod
    def current(cls) -> "Runtime":
        """Return the runtime of the calling task."""
        server = running_server()
        loop = type(asyncio.get_running_loop()).__module__.partition(".")[0]
        return cls(loop, parser_name(server) if server else None)

    def __str__(self) -> str:
        return f"event loop {self.loop}, HTTP parser {self.parser or 'unknown (no uvicorn server)'}"

    def fault(self) -> str | None:
        """Return one line if it is not uvloop and httptools, else None."""
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
