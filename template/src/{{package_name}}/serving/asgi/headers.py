"""Default headers of responses; the application can override each."""

from starlette.types import Message

Header = tuple[bytes, bytes]

# From OWASP's REST cheat sheet, without those for HTML pages. HSTS belongs where TLS terminates;
# a policy on sources would break `/docs`; `frame-ancestors` has replaced X-Frame-Options.
SECURITY: list[Header] = [
    (b"content-security-policy", b"frame-ancestors 'none'"),
    (b"x-content-type-options", b"nosniff"),
]
NO_STORE = (b"cache-control", b"no-store")
# A response with a validator, such as a static file, may be stored, and revalidated on each use.
NO_CACHE = (b"cache-control", b"no-cache")
VALIDATORS = frozenset({b"etag", b"last-modified"})
DEFAULTS = (*SECURITY, NO_STORE)
EXCEPTIONS = VALIDATORS | {b"expires", b"x-request-id"} | {name for name, _ in DEFAULTS}


def completed(start: Message, request_id: str) -> Message:
    """Return a copy of a response's start with the default headers and the request ID.

    A copy, because the application may send the same message again.
    """
    headers: list[Header] = list(start.get("headers", ()))
    names = {name.lower() for name, _ in headers}
    added = [*DEFAULTS, (b"x-request-id", request_id.encode())]
    if not names.isdisjoint(EXCEPTIONS):
        if not names.isdisjoint(VALIDATORS):
            added[added.index(NO_STORE)] = NO_CACHE
        if b"expires" in names:
            names.add(b"cache-control")
        added = [header for header in added if header[0] not in names]
    return {**start, "headers": headers + added}
