"""What the workers share: metric files and standard output."""

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

# Each worker listens on the metrics port; the kernel selects one for each scrape.
SEVERAL_PROCESSES = True

# Not registered: prometheus_client has registered metrics of these names, for one process.
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
    """The metrics of all workers, read from their files on each scrape."""

    def collect(self) -> Iterable[Metric]:
        """Return the metrics of all workers."""
        return SLOTS.read()


def registry() -> Collector:
    """Return the metrics of all workers, or of this process if there are no metric files."""
    return Workers() if VARIABLE in os.environ else REGISTRY


def sample_process() -> None:
    """Sample CPU time, memory and open files of this worker."""
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
    """Serializes the output of the workers: writes to a pipe are atomic only up to 4 KiB.

    A record lock belongs to a process, and is released when the process ends, even by SIGKILL.
    """

    def __init__(self) -> None:
        if sys.platform == "linux":
            self._file = os.memfd_create("output-lock")  # needs no writable disk
        else:
            self._file, path = tempfile.mkstemp()
            os.unlink(path)

    def __enter__(self) -> None:
        fcntl.lockf(self._file, fcntl.LOCK_EX)

    def __exit__(self, *_: object) -> None:
        fcntl.lockf(self._file, fcntl.LOCK_UN)


# Created before the fork: all workers share it.
OUTPUT_LOCK = OutputLock()
