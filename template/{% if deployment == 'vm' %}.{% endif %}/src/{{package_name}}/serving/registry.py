"""Where the metrics are: in files that all workers share, so that any of them can tell of all."""

from prometheus_client import CollectorRegistry
from prometheus_client.multiprocess import MultiProcessCollector

# Each worker listens, the kernel picks one.
SHARED_PORT = True


def registry() -> CollectorRegistry:
    """What all workers have counted, read anew for each scrape."""
    registry = CollectorRegistry()
    MultiProcessCollector(registry)  # type: ignore[no-untyped-call]
    return registry
