"""No export of traces. FastAPI's own telemetry stays on, for a provider that the service sets."""

from typing import Any

from ..settings import ServingSettings


def options() -> dict[str, Any]:
    """Return the arguments for `FastAPI()`: none."""
    return {}


def configure(_: ServingSettings) -> None:
    """Do nothing."""
