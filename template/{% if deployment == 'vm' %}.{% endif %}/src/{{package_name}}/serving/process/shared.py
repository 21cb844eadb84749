"""What the workers share: files of metrics, which each sums up, and standard output."""

import fcntl
import os
import sys
import tempfile
import time
from collections.abc import Iterable
from contextlib import AbstractContextManager

from prometheus_client import REGISTRY, Counter, Gauge, Metric
from prometheus_client.registry import Collector

from .slots import SLOTS, VARIABLE

# Each worker listens on the port of the metrics, the kernel picks one.
SEVERAL_PROCESSES = True

# prometheus_client has these for one process only: hence no registry.
CPU = Counter(
    "process_cpu_seconds_total",
    "CPU time of the workers, also of those that have ended",
    registry=None,
)
MEMORY = Gauge(
    "process_resident_memory_bytes",
    "Resident memory of the workers, shared pages counted for each",
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


class Workers(Collector):
    """What all workers have counted, read for each scrape."""

    def collect(self) -> Iterable[Metric]:
        """Read the files."""
        return SLOTS.read()


def registry() -> Collector:
    """Return the metrics of all workers; those of this process when it is the only one."""
    return Workers() if VARIABLE in os.environ else REGISTRY


def sample_process() -> None:
    """Sample what this worker has used since the last time, and what it holds."""
    global _counted
    if sys.platform != "linux":
        return
    used = time.process_time()
    CPU.inc(used - _counted)
    _counted = used
    with open("/proc/self/statm") as statm:
        MEMORY.set(int(statm.read().split()[1]) * os.sysconf("SC_PAGESIZE"))
    OPEN_FILES.set(len(os.listdir("/proc/self/fd")))


class OutputLock(AbstractContextManager[None]):
    """Keeps the lines of several workers apart: a pipe takes only 4 KiB at once.

    A record lock belongs to a process, and ends with it even when it is killed.
    """

    def __init__(self) -> None:
        if sys.platform == "linux":
            self._file = os.memfd_create("output-lock")  # no disk may be writable
        else:
            self._file, path = tempfile.mkstemp()
            os.unlink(path)

    def __enter__(self) -> None:
        fcntl.lockf(self._file, fcntl.LOCK_EX)

    def __exit__(self, *_: object) -> None:
        fcntl.lockf(self._file, fcntl.LOCK_UN)


# Made before the fork: no other worker writes to standard output within it.
OUTPUT_LOCK = OutputLock()
