"""Headers of every response, unless the application sets its own."""

from starlette.types import Message

Header = tuple[bytes, bytes]

# Those of OWASP's REST cheat sheet that apply outside of a page. HSTS belongs where TLS ends; a
# policy on sources would break `/docs`; `frame-ancestors` has replaced X-Frame-Options.
SECURITY: list[Header] = [
    (b"content-security-policy", b"frame-ancestors 'none'"),
    (b"x-content-type-options", b"nosniff"),
]
NO_STORE = (b"cache-control", b"no-store")
# A response with a validator, such as a static file, may be stored: it is checked before each use.
NO_CACHE = (b"cache-control", b"no-cache")
VALIDATORS = frozenset({b"etag", b"last-modified"})


def completed(start: Message, request_id: str) -> Message:
    """Return the start of a response with these headers and the request ID.

    It is a new message: the application may send its own again.
    """
    headers: list[Header] = list(start.get("headers", ()))
    names = {name.lower() for name, _ in headers}
    added = [header for header in SECURITY if header[0] not in names]
    if b"cache-control" not in names and b"expires" not in names:
        added.append(NO_STORE if names.isdisjoint(VALIDATORS) else NO_CACHE)
    if b"x-request-id" not in names:
        added.append((b"x-request-id", request_id.encode()))
    return {**start, "headers": headers + added}
