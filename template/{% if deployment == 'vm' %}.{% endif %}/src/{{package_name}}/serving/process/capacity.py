"""The number of workers, from the CPUs and the memory that this process may use.

`os.cpu_count()` ignores limits: in a container with one CPU of 64, gunicorn would start 64 workers.
"""

import os
import sys
from collections.abc import Iterator
from pathlib import Path

# A worker uses 50 to 70 MiB; the rest is for requests.
WORKER_MEMORY_BYTES = 96 * 2**20
# Share of the memory for workers; the rest is for the master, kernel buffers and peaks.
USABLE_MEMORY = 0.8


def worker_count(root: Path = Path("/")) -> int:
    """Return one worker per usable CPU, fewer if memory is limited, at least one.

    `WEB_CONCURRENCY` overrides it; if that is not a positive number, exits with a message.
    """
    if configured := os.environ.get("WEB_CONCURRENCY"):
        if not configured.isdecimal() or int(configured) < 1:
            sys.exit("WEB_CONCURRENCY: a number of workers, 1 or more")
        return int(configured)
    cpus = [_scheduled_cpus(), *_cpu_quotas(root)]
    by_memory = [limit * USABLE_MEMORY / WORKER_MEMORY_BYTES for limit in _memory_limits(root)]
    return max(1, int(min(cpus + by_memory)))


def _scheduled_cpus() -> int:
    """Return the number of CPUs in this process's affinity mask; outside Linux, of all CPUs."""
    return len(os.sched_getaffinity(0)) if sys.platform == "linux" else os.cpu_count() or 1


def _cpu_quotas(root: Path) -> Iterator[float]:
    """Yield the CPU limit of each control group of this process that has one, in CPUs."""
    for group in _groups(root, ""):
        match _text(group / "cpu.max").split():
            case [quota, period] if quota != "max":
                yield int(quota) / int(period)
    for group in _groups(root, "cpu"):
        match _text(group / "cpu.cfs_quota_us").split(), _text(group / "cpu.cfs_period_us").split():
            case [quota], [period] if int(quota) > 0:
                yield int(quota) / int(period)


def _memory_limits(root: Path) -> Iterator[int]:
    """Yield the machine's memory, and the limit of each control group of this process, in bytes."""
    yield os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    # Above memory.high (systemd's MemoryHigh=), the kernel throttles a process.
    files = (("", "memory.max"), ("", "memory.high"), ("memory", "memory.limit_in_bytes"))
    for controller, file in files:
        for group in _groups(root, controller):
            match _text(group / file).split():
                case [limit] if limit != "max":
                    yield int(limit)


def _groups(root: Path, controller: str) -> Iterator[Path]:
    """Yield this process's control group and its parents: of version 1, or 2 if `controller` is "".

    In a container the path may be that of the host, while the container's own group is the root of
    the mount: a directory that does not exist has no limit.
    """
    for line in _text(root / "proc/self/cgroup").splitlines():
        _, controllers, path = line.split(":", 2)
        if controller in controllers.split(","):
            mount = root / "sys/fs/cgroup" / controllers
            inner = Path(path.lstrip("/"))
            yield from (mount / group for group in (inner, *inner.parents))


def _text(file: Path) -> str:
    """Return the content of a file, or an empty string if it can't be read."""
    try:
        return file.read_text()
    except OSError:
        return ""
