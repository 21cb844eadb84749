"""The log: one event a line, as JSON in staging and production, for the eye in development.

Other lines go through `logging`, whoever writes them; the line of a request has a shorter way.
"""

import logging
import re
from collections.abc import Callable, Iterable, Mapping
from datetime import UTC, datetime
from typing import Any

import orjson

from . import request_id
from .settings import Environment, ServingSettings

# Linux keeps a write to a pipe in one piece up to this size, whoever else writes to it.
PIPE_BUF = 4096
MASK = "***"
# What a record has by itself; the rest was given as `extra`.
RECORD = {*vars(logging.makeLogRecord({})), "message", "asctime", "color_message", "taskName"}


def configure(settings: ServingSettings) -> "Log":
    """Send every line of this process to standard output, and nothing twice."""
    render = as_text if settings.environment is Environment.DEVELOPMENT else as_json
    log = Log(render, Mask(settings.log_masked))
    root = logging.getLogger()
    root.handlers = [*(other for other in root.handlers if not isinstance(other, Log)), log]
    root.setLevel(settings.log_level.upper())
    logging.captureWarnings(True)
    take_over("uvicorn", "uvicorn.error")
    # A request has its line already.
    access = logging.getLogger("uvicorn.access")
    access.handlers.clear()
    access.propagate = False
    return log


def take_over(*names: str) -> None:
    """Let the root decide on what these loggers say and write it, however they were set up."""
    for name in names:
        logger = logging.getLogger(name)
        logger.handlers.clear()
        logger.propagate = True
        logger.setLevel(logging.NOTSET)


class Log(logging.Handler):
    """Writes events as lines to standard output."""

    def __init__(self, render: Callable[[dict[str, Any]], bytes], mask: "Mask") -> None:
        super().__init__()
        self.render = render
        self.mask = mask
        self.output = open(1, "wb", closefd=False)  # noqa: SIM115, it lives as long as the process

    def emit(self, record: logging.LogRecord) -> None:
        """Write a record at once; `extra` and text are masked."""
        try:
            self.output.write(self.render(self._fields(record)))
            self.output.flush()
        except Exception:
            self.handleError(record)

    def write(self, events: Iterable[dict[str, Any]]) -> None:
        """Write events that hold nothing to be masked, as few writes as a pipe takes."""
        size = 0
        for event in events:
            line = self.render(event)
            size += len(line)
            if size > PIPE_BUF:
                self.output.flush()
                size = len(line)
            self.output.write(line)
        self.output.flush()

    def _fields(self, record: logging.LogRecord) -> dict[str, Any]:
        fields: dict[str, Any] = {
            "timestamp": datetime.fromtimestamp(record.created, UTC),
            "level": record.levelname.lower(),
            "logger": record.name,
            "event": self.mask.text(record.getMessage().rstrip()),
        }
        extra = {name: value for name, value in vars(record).items() if name not in RECORD}
        fields |= self.mask.values(extra)
        fields |= request_id.current()
        if record.exc_info:
            trace = logging.Formatter().formatException(record.exc_info)
            fields["exception"] = self.mask.text(trace)
        if record.stack_info:
            fields["stack"] = self.mask.text(record.stack_info)
        return fields


def as_json(event: dict[str, Any]) -> bytes:
    """A line of JSON, whatever the event holds."""
    options = orjson.OPT_APPEND_NEWLINE | orjson.OPT_UTC_Z | orjson.OPT_NON_STR_KEYS
    try:
        return orjson.dumps(event, str, options)
    except orjson.JSONEncodeError:  # a lone surrogate, a huge number, a circle
        plain = {name: ascii(value) for name, value in event.items()}
        return orjson.dumps(plain | {"timestamp": event["timestamp"]}, None, options)


def as_text(event: dict[str, Any]) -> bytes:
    """A line for the eye, and the trace below it."""
    time, level, logger, what, *rest = event.items()
    trace = event.get("exception") or event.get("stack")
    words = [f"{time[1]:%H:%M:%S.%f}", f"{level[1].upper():7}", f"{logger[1]}:", what[1]]
    words += [f"{name}={value}" for name, value in rest if value != trace]
    lines = [" ".join(words), *([trace] if trace else [])]
    return "".join(f"{line}\n" for line in lines).encode(errors="backslashreplace")


class Mask:
    """Hides the values of names that are not to be logged, in whatever case they come.

    A name also stands for those that end with it: `token` for `refresh_token`.
    """

    def __init__(self, names: Iterable[str]) -> None:
        either = "|".join(re.escape(name).replace("_", "[-_]?") for name in names) or r"(?!)"
        self._name = re.compile(rf".*(?:{either})", re.IGNORECASE | re.DOTALL)
        # `name=value`, `name: value`, `"name": "value"`, `(b'name', b'value')`.
        before = rf"""((?:{either})(?:\\?["'])?\s*[=:]\s*|(?:{either})["'],\s*)"""
        quoted = r"""b?"(?:[^"\\]|\\.)*"|b?'(?:[^'\\]|\\.)*'|\\"[^"\\]*\\\""""
        word = r"""[^\s"',;&)}\]]+"""
        bare = rf"(?:(?:basic|bearer|digest|token)\s+)?{word}(?:;\s*[^\s=;,]+={word})*"
        self._pair = re.compile(f"{before}(?:{quoted}|{bare})", re.IGNORECASE)

    def text(self, text: str) -> str:
        """The text with the values masked that stand beside such a name."""
        return self._pair.sub(rf"\1{MASK}", text)

    def values(self, values: Mapping[Any, Any], levels: int = 5) -> dict[Any, Any]:
        """The mapping with the values of such names masked, and what is too many levels deep."""
        return {
            name: MASK if self._name.fullmatch(str(name)) else self._value(value, levels - 1)
            for name, value in values.items()
        }

    def _value(self, value: Any, levels: int) -> Any:
        match value:
            case str():
                return self.text(value)
            case Mapping() | list() | tuple() | set() if not levels:  # a circle, say
                return MASK
            case Mapping():
                return self.values(value, levels)
            case list() | tuple() | set():
                return [self._value(item, levels - 1) for item in value]
            case _:
                return value
