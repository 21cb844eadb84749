"""Who a request is, in every log line, every error and the response."""

import re
from collections.abc import Mapping
from contextvars import ContextVar
from random import getrandbits

from starlette.types import Scope

from . import tracing

SHAPE = re.compile(rb"[A-Za-z0-9._-]{8,128}")
# W3C Trace Context: version, trace id, parent id, flags; all zeros mean none.
TRACEPARENT = re.compile(
    rb"(?!ff)[0-9a-f]{2}-(?!0{32})([0-9a-f]{32})-(?!0{16})[0-9a-f]{16}-[0-9a-f]{2}"
)

NO_IDS: Mapping[str, str] = {}
_ids: ContextVar[Mapping[str, str]] = ContextVar("ids", default=NO_IDS)


def current() -> Mapping[str, str]:
    """`request_id`, `trace_id` and `span_id`, if it has them, of the request that runs."""
    return _ids.get()


def identify(scope: Scope, headers: Mapping[bytes, bytes]) -> dict[str, str]:
    """The ids of a request, from here on the `current()` ones of its task."""
    sent = headers.get(b"x-request-id")
    if sent is not None and from_trusted_proxy(scope) and SHAPE.fullmatch(sent):
        ids = {"request_id": sent.decode()}
    else:
        # Unique, not secret: a generator that asks the kernel costs three times as much.
        ids = {"request_id": getrandbits(128).to_bytes(16, "big").hex()}
    parent = headers.get(b"traceparent")
    if parent is not None and (found := TRACEPARENT.fullmatch(parent)):
        ids["trace_id"] = found[1].decode()
    ids.update(tracing.current_ids())
    _ids.set(ids)
    return ids


def from_trusted_proxy(scope: Scope) -> bool:
    """Whether uvicorn trusts the peer (`--forwarded-allow-ips`), and the peer named a client.

    Then, and only then, the client is the one of `X-Forwarded-For`, which has no port: uvicorn
    says 0. The peer of a TCP connection never has that port, the one of a unix socket no address.
    """
    client = scope.get("client")
    return client is not None and client[1] == 0
