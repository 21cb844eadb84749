"""Where the metrics are: in files that all workers share, so that any of them can tell of all."""

import os
import sys
import time

from prometheus_client import CollectorRegistry, Counter, Gauge
from prometheus_client.multiprocess import MultiProcessCollector

# Each worker listens, the kernel picks one.
SHARED_PORT = True

# What prometheus_client tells of one process, which this is not: hence no registry.
CPU = Counter(
    "process_cpu_seconds_total", "CPU time of the workers, those that are gone too", registry=None
)
MEMORY = Gauge(
    "process_resident_memory_bytes",
    "Resident memory of the workers, what they share counted for each",
    multiprocess_mode="livesum",
    registry=None,
)
OPEN_FILES = Gauge(
    "process_open_fds",
    "Open file descriptors of the workers",
    multiprocess_mode="livesum",
    registry=None,
)

_counted = 0.0


def registry() -> CollectorRegistry:
    """What all workers have counted, read anew for each scrape."""
    registry = CollectorRegistry()
    MultiProcessCollector(registry)  # type: ignore[no-untyped-call]
    return registry


def sample_process() -> None:
    """What this worker has used since the last time, and what it holds."""
    global _counted
    if sys.platform != "linux":
        return
    used = time.process_time()
    CPU.inc(used - _counted)
    _counted = used
    with open("/proc/self/statm") as statm:
        MEMORY.set(int(statm.read().split()[1]) * os.sysconf("SC_PAGESIZE"))
    OPEN_FILES.set(len(os.listdir("/proc/self/fd")))
