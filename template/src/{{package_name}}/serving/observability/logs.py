"""The log: one line per event, as JSON in staging and production, as text in development.

All lines go through `logging`, except those of the access log.
"""

import logging
import os
import re
import sys
import threading
import traceback
from collections.abc import Callable, Iterable
from datetime import UTC, datetime
from functools import lru_cache, partial
from pathlib import Path
from types import TracebackType
from typing import Any

from pydantic_core import to_json, to_jsonable_python

from .. import secret_files
from ..asgi import request_id
from ..process.shared import OUTPUT_LOCK
from ..settings import Environment, ServingSettings
from .masking import Mask

# Linux writes up to this many bytes to a pipe atomically.
PIPE_BUF = 4096
# Attributes of every record; any others were passed as `extra`.
RECORD = {*vars(logging.makeLogRecord({})), "message", "asctime", "color_message", "taskName"}
# Modules of uvicorn and websockets that log handshakes.
HANDSHAKE = re.compile(r"[/\\]websockets[/\\]")
# Requests that end in the same iteration of the event loop have the same time.
time_to_json = lru_cache(maxsize=1)(to_json)
OWN = ("timestamp", "level", "logger", "event", "exception")

PACKAGE = f"{Path(__file__).parents[2]}{os.sep}"


def configure(settings: ServingSettings) -> "Log":
    """Configure logging: every line of this process goes to standard output, once."""
    render = as_text if settings.environment is Environment.DEVELOPMENT else as_json
    log = Log(render, Mask(settings.log_masked, secret_files.secrets(settings)))
    log.setLevel(settings.log_level.upper())
    log.addFilter(is_relevant)
    root = logging.getLogger()
    root.handlers = [*(other for other in root.handlers if not writes_to_console(other)), log]
    root.setLevel(settings.log_level.upper())
    logging.captureWarnings(True)
    hook = getattr(sys.excepthook, "func", sys.excepthook)
    if settings.environment is not Environment.DEVELOPMENT and hook in EXCEPTION_HOOKS:
        sys.excepthook = partial(write_exception, log.mask)
    if threading.excepthook is threading.__excepthook__:
        threading.excepthook = log_thread_exception
    propagate_to_root("uvicorn", "uvicorn.error")
    # The access log has a line for each handshake, without the query string.
    logging.getLogger("uvicorn.error").addFilter(is_not_handshake)
    access = logging.getLogger("uvicorn.access")
    access.handlers.clear()
    access.propagate = False
    return log


def write_exception(
    mask: Mask, kind: type[BaseException], error: BaseException, trace: TracebackType | None
) -> None:
    """Write an uncaught exception, such as a failed import, to standard error, masked."""
    sys.stderr.write(mask.text("".join(traceback.format_exception(kind, error, trace))))


def log_thread_exception(ended: threading.ExceptHookArgs) -> None:
    """Log the exception that ended a thread, instead of Python's traceback on standard error."""
    name = ended.thread.name if ended.thread else "unknown"
    error = ended.exc_value
    if not isinstance(error, SystemExit):
        logging.getLogger("threading").error("Exception in thread %s", name, exc_info=error)


# Python's own hook, and the one that another application in this process has set.
EXCEPTION_HOOKS = (sys.__excepthook__, write_exception)


def propagate_to_root(*names: str) -> None:
    """Remove the handlers of these loggers, so that only the root logger writes their records."""
    for name in names:
        logger = logging.getLogger(name)
        logger.handlers.clear()
        logger.propagate = True
        logger.setLevel(logging.INFO)  # at DEBUG, websockets formats a line for each frame


def writes_to_console(handler: logging.Handler) -> bool:
    """Return whether a handler writes to the console, and so would repeat each line."""
    console = (sys.stdout, sys.stderr, sys.__stdout__, sys.__stderr__)
    return isinstance(handler, Log) or getattr(handler, "stream", handler) in console


def is_relevant(record: logging.LogRecord) -> bool:
    """Drop records of libraries below WARNING, unless one of their loggers has a level."""
    if record.levelno >= logging.WARNING or "site-packages" not in record.pathname:
        return True
    if record.pathname.startswith(PACKAGE):
        return True
    logger: logging.Logger | None = logging.getLogger(record.name)
    while logger and logger.parent:
        if logger.level:
            return True
        logger = logger.parent
    return False


def is_not_handshake(record: logging.LogRecord) -> bool:
    """Drop records of uvicorn and websockets on handshakes: the access log has a line."""
    return record.levelno >= logging.WARNING or not HANDSHAKE.search(record.pathname)


class Log(logging.Handler):
    """Writes events as lines to standard output."""

    def __init__(self, render: Callable[[dict[str, Any]], bytes], mask: Mask) -> None:
        super().__init__()
        self.render = render
        self.mask = mask
        self.output = 1  # the file descriptor of standard output

    def emit(self, record: logging.LogRecord) -> None:
        """Write a record immediately, with message and `extra` masked."""
        try:
            line = self.render(self._fields(record))
            with OUTPUT_LOCK:
                write_all(self.output, line)
        except Exception:
            self.handleError(record)

    def write(self, lines: Iterable[bytes]) -> None:
        """Write lines that need no masking, with few system calls."""
        part = b""
        self.acquire()
        try:
            with OUTPUT_LOCK:
                for line in lines:
                    if len(part) + len(line) > PIPE_BUF:
                        write_all(self.output, part)
                        part = b""
                    part += line
                write_all(self.output, part)
        finally:
            self.release()

    def renderer(self, common: dict[str, Any]) -> Callable[[datetime, dict[str, Any]], bytes]:
        """Return a function that renders events with the fields `common`.

        Its arguments are the time of an event and its other fields.
        """
        if self.render is not as_json:
            return lambda time, others: self.render({"timestamp": time, **common, **others})
        rendered = to_json(common)[1:-1]
        return lambda time, others: (
            b'{"timestamp":%b,%b,%b\n' % (time_to_json(time), rendered, to_json(others)[1:])
        )

    def _fields(self, record: logging.LogRecord) -> dict[str, Any]:
        fields: dict[str, Any] = {
            "timestamp": datetime.fromtimestamp(record.created, UTC),
            "level": record.levelname.lower(),
            "logger": record.name,
            "event": self.mask.text(message(record).rstrip()),
        }
        ids = request_id.current()
        extra = {name: value for name, value in vars(record).items() if name not in RECORD}
        for name, value in self.mask.values(plain(extra)).items():
            fields[f"extra_{name}" if name in OWN or name in ids else name] = value
        fields |= ids
        if record.exc_info:
            trace = logging.Formatter().formatException(record.exc_info)
            fields["exception"] = self.mask.text(trace)
        if record.stack_info:
            fields["stack"] = self.mask.text(record.stack_info)
        return fields


def write_all(output: int, data: bytes) -> None:
    """Write all data to a file descriptor; a signal or a full disk may cut a write short."""
    while data:
        data = data[os.write(output, data) :]


def message(record: logging.LogRecord) -> str:
    """Return the message of a record, or its format and arguments if they do not match."""
    try:
        return record.getMessage()
    except Exception as error:
        return f"{safe_str(record.msg)} % {safe_str(record.args)}: {safe_str(error)}"


def plain(values: dict[str, Any]) -> dict[str, Any]:
    """Return values as JSON types, so that models and bytes are masked as well."""
    return {str(name): plain_value(value) for name, value in values.items()}


def plain_value(value: object) -> object:
    """Return a value as JSON types; as text if that fails (reference cycle, non-UTF-8 bytes)."""
    try:
        return to_jsonable_python(value, fallback=safe_str, inf_nan_mode="strings")
    except Exception:
        return safe_str(value)


def safe_str(value: object) -> str:
    """Return `str(value)`, or a placeholder if `__str__` raises."""
    try:
        return str(value)
    except Exception as error:
        return f"<{type(value).__name__}: {type(error).__name__} in its text>"


def as_json(event: dict[str, Any]) -> bytes:
    """Return a line of JSON; values that can't be encoded are escaped."""
    try:
        return to_json(event, inf_nan_mode="strings") + b"\n"
    except ValueError:  # a lone surrogate
        return to_json({name: encodable(value) for name, value in event.items()}) + b"\n"


def encodable(value: object) -> object:
    """Return the value, with lone surrogates escaped, so that UTF-8 can encode it."""
    try:
        to_json(value)
    except ValueError:
        return safe_str(value).encode(errors="backslashreplace").decode()
    return value


def as_text(event: dict[str, Any]) -> bytes:
    """Return a line for a terminal, followed by its traces."""
    time, level, logger, text, *rest = event.items()
    traces = [event[name] for name in ("stack", "exception") if event.get(name)]
    parts = [f"{time[1]:%H:%M:%S.%f}", f"{level[1].upper():7}", f"{logger[1]}:", text[1]]
    parts += [f"{name}={value}" for name, value in rest if value not in traces]
    lines = [" ".join(parts), *traces]
    return "".join(f"{line}\n" for line in lines).encode(errors="backslashreplace")
