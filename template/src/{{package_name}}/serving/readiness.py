"""Whether the service wants traffic."""

from enum import StrEnum


class Availability(StrEnum):
    """The life of a process, as a load balancer sees it."""

    STARTING = "starting"
    READY = "ready"
    DRAINING = "draining"


class Readiness:
    """The availability of this process: starting, then ready, then draining."""

    def __init__(self) -> None:
        self.availability = Availability.STARTING
