"""The proxies whose X-Forwarded-* headers uvicorn trusts: `FORWARDED_ALLOW_IPS`."""

import os
from collections.abc import Iterator
from ipaddress import ip_network

VARIABLE = "FORWARDED_ALLOW_IPS"
EVERY_PEER = "*"


def trusted() -> str:
    """Return the trusted addresses and networks, comma-separated; by default this machine."""
    return os.environ.get(VARIABLE, "127.0.0.1")


def misread() -> Iterator[str]:
    """Yield a line for each invalid entry, which uvicorn would treat as a name and never match."""
    if trusted() == EVERY_PEER:
        return
    for entry in filter(None, map(str.strip, trusted().split(","))):
        try:
            ip_network(entry)
        except ValueError as error:
            yield f"{VARIABLE}: an address, a network without host bits, or * alone: {error}"
