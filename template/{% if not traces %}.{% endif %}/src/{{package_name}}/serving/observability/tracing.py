"""No export of traces. A provider that the service sets still receives FastAPI's spans."""

from typing import Any

from ..settings import ServingSettings


def options() -> dict[str, Any]:
    """Return the arguments for `FastAPI()`: an empty dictionary."""
    return {}


def configure(_: ServingSettings) -> None:
    """Do nothing."""
