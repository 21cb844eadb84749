"""The headers of every response that an API should have, unless the application sets its own."""

from starlette.types import Message

Header = tuple[bytes, bytes]

# Those of OWASP's REST cheat sheet that mean something outside of a page. HSTS is for whoever
# speaks TLS; a policy on sources would keep the page of `/docs` from loading; `frame-ancestors`
# has replaced X-Frame-Options.
SECURITY: list[Header] = [
    (b"content-security-policy", b"frame-ancestors 'none'"),
    (b"x-content-type-options", b"nosniff"),
]
NAMES = frozenset(name for name, _ in SECURITY) | {b"x-request-id"}


def completed(start: Message, request_id: str) -> Message:
    """The start of a response with these headers and the request's id.

    A new message: the application may use its own once more.
    """
    headers: list[Header] = list(start.get("headers", ()))
    added = [*SECURITY, (b"x-request-id", request_id.encode())]
    own = dict(headers)
    if not NAMES.isdisjoint(own):
        added = [header for header in added if header[0] not in own]
    headers += added
    return {**start, "headers": headers}
