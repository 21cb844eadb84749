"""Metrics and standard output of the single process of a pod."""

from contextlib import nullcontext

from prometheus_client import REGISTRY, CollectorRegistry

SEVERAL_PROCESSES = False
# No other process writes to standard output.
OUTPUT_LOCK = nullcontext()


def registry() -> CollectorRegistry:
    """Return the registry, which includes CPU, memory and open files of this process."""
    return REGISTRY


def sample_process() -> None:
    """Do nothing: prometheus_client samples this process itself."""
