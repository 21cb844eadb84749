"""Metrics and standard output of a pod's only process."""

from contextlib import nullcontext

from prometheus_client import REGISTRY, CollectorRegistry

SEVERAL_PROCESSES = False
# No other process writes to standard output.
OUTPUT_LOCK = nullcontext()


def registry() -> CollectorRegistry:
    """Return the metrics of this process; prometheus_client adds those of the process itself."""
    return REGISTRY


def sample_process() -> None:
    """Do nothing: prometheus_client samples the one process by itself."""
