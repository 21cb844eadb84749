"""The IDs of a request, for its log lines, errors and response headers."""

import os
import random
import re
from collections.abc import Mapping
from contextvars import ContextVar

from opentelemetry import trace
from starlette.types import Receive, Scope

from ..uvicorn_server import is_forwarded

ACCEPTED = re.compile(rb"[A-Za-z0-9._-]{8,128}")
# W3C Trace Context: version, trace id, parent id, flags; all zeros mean none.
TRACEPARENT = re.compile(
    rb"(?!ff)[0-9a-f]{2}-(?!0{32})([0-9a-f]{32})-(?!0{16})[0-9a-f]{16}-[0-9a-f]{2}"
)

NO_IDS: Mapping[str, str] = {}
_ids: ContextVar[Mapping[str, str]] = ContextVar("ids", default=NO_IDS)
bind = _ids.set
unbind = _ids.reset

# IDs must be unique, but not secret. Unique also after `random.seed()` and after a fork.
_random = random.Random()  # noqa: S311
if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_random.seed)


def current() -> Mapping[str, str]:
    """Return `request_id` of the current request, and `trace_id` and `span_id` if it has them."""
    return {**_ids.get(), **span_ids()}


def identify(scope: Scope, receive: Receive, headers: Mapping[bytes, bytes]) -> dict[str, str]:
    """Return the IDs of a request; X-Request-ID is accepted only from a trusted proxy."""
    received = headers.get(b"x-request-id")
    if received is not None and ACCEPTED.fullmatch(received) and is_forwarded(scope, receive):
        ids = {"request_id": received.decode()}
    else:
        ids = {"request_id": _random.randbytes(16).hex()}
    parent = headers.get(b"traceparent")
    if parent is not None and (match := TRACEPARENT.fullmatch(parent)):
        ids["trace_id"] = match[1].decode()
    return ids


def span_ids() -> Mapping[str, str]:
    """Return `trace_id` and `span_id` of the current OpenTelemetry span; empty if there is none."""
    context = trace.get_current_span().get_span_context()
    if not context.is_valid:
        return NO_IDS
    return {
        "trace_id": trace.format_trace_id(context.trace_id),
        "span_id": trace.format_span_id(context.span_id),
    }
