"""Whom the server believes about where a request comes from: `FORWARDED_ALLOW_IPS`."""

import os
from collections.abc import Iterator
from ipaddress import ip_network

VARIABLE = "FORWARDED_ALLOW_IPS"
EVERYBODY = "*"


def trusted() -> str:
    """Addresses and networks, separated by commas; uvicorn's default is the machine itself."""
    return os.environ.get(VARIABLE, "127.0.0.1")


def misread() -> Iterator[str]:
    """A line for each entry that uvicorn would take for a name, and so believe nobody."""
    if trusted() == EVERYBODY:
        return
    for entry in filter(None, map(str.strip, trusted().split(","))):
        try:
            ip_network(entry)
        except ValueError as error:
            yield f"{VARIABLE}: an address, a network without host bits, or * alone: {error}"
