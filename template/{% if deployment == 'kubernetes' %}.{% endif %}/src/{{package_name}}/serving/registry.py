"""Where the metrics are: in this one process."""

from prometheus_client import REGISTRY, CollectorRegistry

SHARED_PORT = False


def registry() -> CollectorRegistry:
    """What this process has counted, and the process itself."""
    return REGISTRY


def sample_process() -> None:
    """Nothing: prometheus_client looks at this one process by itself."""
