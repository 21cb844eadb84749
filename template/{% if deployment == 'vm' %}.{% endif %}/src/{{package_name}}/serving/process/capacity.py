"""How many workers this process may feed: the CPUs and the memory it is allowed to use.

`os.cpu_count()` counts the machine's CPUs: in a container with one of 64, gunicorn would start 64.
"""

import os
import sys
from collections.abc import Iterator
from pathlib import Path

# A worker with the whole stack holds 50 to 70 MiB; the rest is for requests.
WORKER_MEMORY_BYTES = 96 * 2**20
# Left to the master, the kernel's buffers and peaks.
USABLE_MEMORY = 0.8


def worker_count(root: Path = Path("/")) -> int:
    """One worker per usable CPU, fewer where the memory limit says so, at least one.

    `WEB_CONCURRENCY` overrides it; exits with a line when that is not a positive number.
    """
    if chosen := os.environ.get("WEB_CONCURRENCY"):
        if not chosen.isdecimal() or int(chosen) < 1:
            sys.exit("WEB_CONCURRENCY: a number of workers, 1 or more")
        return int(chosen)
    cpus = [_scheduled_cpus(), *_cpu_quotas(root)]
    fitting = [limit * USABLE_MEMORY / WORKER_MEMORY_BYTES for limit in _memory_limits(root)]
    return max(1, int(min(cpus + fitting)))


def _scheduled_cpus() -> int:
    """The CPUs that the scheduler gives this process; off Linux, which knows no such limit, all."""
    return len(os.sched_getaffinity(0)) if sys.platform == "linux" else os.cpu_count() or 1


def _cpu_quotas(root: Path) -> Iterator[float]:
    """The CPUs that each control group around this process may use, where it has a limit."""
    for group in _groups(root, ""):
        match _text(group / "cpu.max").split():
            case [quota, period] if quota != "max":
                yield int(quota) / int(period)
    for group in _groups(root, "cpu"):
        match _text(group / "cpu.cfs_quota_us").split(), _text(group / "cpu.cfs_period_us").split():
            case [quota], [period] if int(quota) > 0:
                yield int(quota) / int(period)


def _memory_limits(root: Path) -> Iterator[int]:
    """The machine's bytes, and those that each control group around this process may hold."""
    yield os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    # Above memory.high, systemd's MemoryHigh, the kernel slows a process down.
    files = (("", "memory.max"), ("", "memory.high"), ("memory", "memory.limit_in_bytes"))
    for controller, file in files:
        for group in _groups(root, controller):
            match _text(group / file).split():
                case [limit] if limit != "max":
                    yield int(limit)


def _groups(root: Path, controller: str) -> Iterator[Path]:
    """The control group of this process and those around it: version 2 for no controller, else 1.

    In a container the path may be the host's, while the mount shows the container's own group at
    its root: what is missing on the way up is passed over.
    """
    for line in _text(root / "proc/self/cgroup").splitlines():
        _, controllers, path = line.split(":", 2)
        if controller in controllers.split(","):
            mount = root / "sys/fs/cgroup" / controllers
            inner = Path(path.lstrip("/"))
            yield from (mount / group for group in (inner, *inner.parents))


def _text(file: Path) -> str:
    try:
        return file.read_text()
    except OSError:
        return ""
