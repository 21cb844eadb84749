"""Metric values in files of PROMETHEUS_MULTIPROC_DIR, one set per slot; without it, in memory.

Each process takes the lowest free slot and continues with the files of that slot. So a replaced
worker leaves no stale files, and its counts are kept. prometheus_client itself names files by
process ID, and never deletes them.
"""

import atexit
import errno
import fcntl
import itertools
import logging
import os
import re
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Any

from prometheus_client import Metric, values
from prometheus_client.mmap_dict import MmapedDict, mmap_key

from .merge import merge

VARIABLE = "PROMETHEUS_MULTIPROC_DIR"
# Size of a new file. A full file is doubled in size.
FILE_BYTES = 2**16
FILE = re.compile(r"([a-z]+(?:_[a-z]+)?)_slot-(\d+)\.db")
# Byte 0 is locked while slots are assigned, byte 1 while a process has slot 0, and so on. A record
# lock belongs to a process, and is released when it ends, even by SIGKILL.
LOCKS = "slots"

logger = logging.getLogger(__name__)


class NumberFile(MmapedDict):
    """A file of values with allocated blocks: a write to a sparse page may raise SIGBUS."""

    def __init__(self, path: str) -> None:
        if not os.path.exists(path):
            new = f"{path}.new"  # so that no reader sees an empty file
            try:
                with open(new, "wb") as file:
                    allocate(file.fileno(), FILE_BYTES)
                os.rename(new, path)
            except OSError:
                with suppress(OSError):
                    os.remove(new)
                raise
        super().__init__(path)  # type: ignore[no-untyped-call]

    def _init_value(self, key: str) -> None:
        size, needed = self._capacity, self._used + len(key.encode()) + 32
        while size < needed:
            size *= 2
        if size > self._capacity:
            allocate(self._f.fileno(), size)
        super()._init_value(key)  # type: ignore[no-untyped-call]


def allocate(file: int, size: int) -> None:
    """Allocate `size` bytes for a file. Raises `OSError` if the disk is full."""
    if sys.platform == "linux":
        os.posix_fallocate(file, 0, size)
    else:
        os.truncate(file, size)


class Slots:
    """The slots of the directory, and the files of this process."""

    def __init__(self) -> None:
        self.lock = threading.Lock()
        self.taken = False
        """Whether this process has tried to take a slot."""
        self.values: list[SharedValue] = []
        self.error: OSError | None = None
        """The reason for missing metrics, until it is reported."""
        self._own: int | None = None
        self._files: dict[str, NumberFile | None] = {}
        self._locks: int | None = None
        self._opened_by = 0
        self._remove = False
        os.register_at_fork(after_in_child=self._forget)

    def open(self, *, remove: bool) -> None:
        """Take a slot for the lifetime of this process, and remove the files of dead processes.

        When this process ends, the files are removed, and the directory if `remove` is true, unless
        another process has a slot. Exits with a message if the directory does not exist.
        """
        if self._opened_by:
            return
        self._opened_by, self._remove = os.getpid(), remove
        try:
            self._locks = self._open_locks()
        except OSError as error:
            if error.errno not in (errno.ENOSPC, errno.EDQUOT):
                sys.exit(f"{VARIABLE}={os.environ[VARIABLE]}: {error.strerror}")
        with self.lock:
            if not self.taken:
                self._take()
            self._clear()
        self.report()
        atexit.register(self.close)

    def take(self) -> None:
        """Take a slot, and continue with the values in its files."""
        self._take()
        for value in self.values:
            value.attach()

    def file(self, kind: str) -> NumberFile | None:
        """Return this process's file for a kind of metric, or None without a slot or disk space."""
        if self._own is not None and kind not in self._files:
            try:
                self._files[kind] = NumberFile(f"{os.environ[VARIABLE]}/{kind}_slot-{self._own}.db")
            except OSError as error:
                self.give_up(kind, error)
        return self._files.get(kind)

    def give_up(self, kind: str, error: OSError) -> None:
        """Stop using the file for a kind of metric, because the disk is full."""
        if None not in self._files.values():
            self.error = error
        self._files[kind] = None

    def report(self) -> None:
        """Log why metrics are missing. Call without the lock: a log handler may update a metric."""
        error, self.error = self.error, None
        if error:
            logger.error("Metrics are missing until this process ends: %s", error)

    def read(self) -> Iterator[Metric]:
        """Return the metrics of all processes; live gauges only of live processes."""
        with suppress(OSError), self._exclusive():
            for path, slot in self._metric_files("gauge_live"):
                if self._is_free(slot):
                    os.remove(path)
        return merge(path for path, _ in self._metric_files())

    def _take(self) -> None:
        self.taken = True
        if VARIABLE not in os.environ:
            return
        try:
            if self._locks is None:
                self._locks = self._open_locks()
            with self._exclusive():
                self._own = next(slot for slot in itertools.count() if self._lock(slot + 1))
                for path, slot in self._metric_files("gauge_live"):
                    if slot == self._own:
                        os.remove(path)
        except OSError as error:
            self.give_up("", error)

    def _clear(self) -> bool:
        """Remove all files if no other process has a slot; return whether it did."""
        with suppress(OSError), self._exclusive():
            if self._own is None or not self._lock(1, 0):  # all slots
                return False
            self._unlock(self._own + 2, 0)
            if self._own:
                self._unlock(1, self._own)
            for path, slot in self._metric_files():
                if slot != self._own or not self._files:
                    os.remove(path)
            return True
        return False

    def close(self) -> None:
        """Remove the files, in the process that called `open`; do nothing in a worker."""
        if self._opened_by != os.getpid():
            return
        with self.lock:
            self._files.clear()
            is_last = self._clear()
        with suppress(OSError):
            if is_last:
                os.remove(os.path.join(os.environ[VARIABLE], LOCKS))
            if self._remove:
                os.rmdir(os.environ[VARIABLE])

    def _forget(self) -> None:
        """Close the parent's files in a forked process."""
        self.lock = threading.Lock()
        for file in filter(None, self._files.values()):
            file.close()  # type: ignore[no-untyped-call]
        self.taken, self._own, self._files = False, None, {}

    def _metric_files(self, kind: str = "") -> list[tuple[str, int]]:
        """Return the path and slot of each file whose kind starts with `kind`."""
        directory = os.environ[VARIABLE]
        files = filter(None, map(FILE.fullmatch, os.listdir(directory)))
        return [(f"{directory}/{f[0]}", int(f[2])) for f in files if f[1].startswith(kind)]

    def _open_locks(self) -> int:
        return os.open(os.path.join(os.environ[VARIABLE], LOCKS), os.O_RDWR | os.O_CREAT, 0o600)

    @contextmanager
    def _exclusive(self) -> Iterator[None]:
        """Hold the lock on slot assignment, so that no other process takes or releases a slot."""
        self._lock(0, wait=True)
        try:
            yield
        finally:
            self._unlock(0)

    def _is_free(self, slot: int) -> bool:
        if slot == self._own or not self._lock(slot + 1):
            return False
        self._unlock(slot + 1)
        return True

    def _lock(self, start: int, length: int = 1, *, wait: bool = False) -> bool:
        """Lock bytes of the lock file (length 0: to its end); return whether it succeeded."""
        if self._locks is None:
            return False
        try:
            fcntl.lockf(self._locks, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB), length, start)
        except (BlockingIOError, PermissionError):
            return False
        return True

    def _unlock(self, start: int, length: int = 1) -> None:
        if self._locks is not None:
            fcntl.lockf(self._locks, fcntl.LOCK_UN, length, start)


class SharedValue:
    """A metric value for prometheus_client, in a file of this process's slot."""

    def __init__(
        self,
        typ: str,
        metric_name: str,
        name: str,
        labelnames: list[str],
        labelvalues: list[str],
        help_text: str,
        multiprocess_mode: str = "",
        **_: Any,
    ) -> None:
        self._kind = f"{typ}_{multiprocess_mode}" if multiprocess_mode else typ
        self._key = mmap_key(metric_name, name, labelnames, labelvalues, help_text)
        self._file: NumberFile | None = None
        self._value = self._timestamp = 0.0
        with SLOTS.lock:
            SLOTS.values.append(self)
            if SLOTS.taken:
                self.attach()

    def attach(self) -> None:
        """Continue with the value in this process's file."""
        self._file = SLOTS.file(self._kind)
        if self._file is not None:
            try:
                self._value, self._timestamp = self._file.read_value(self._key)  # type: ignore[no-untyped-call]
            except OSError as error:
                SLOTS.give_up(self._kind, error)
                self._file = None

    def inc(self, amount: float) -> None:
        """Add to the value."""
        with SLOTS.lock:
            self._write(amount, 0.0, add=True)
        if SLOTS.error:
            SLOTS.report()

    def set(self, value: float, timestamp: float | None = None) -> None:
        """Replace the value."""
        with SLOTS.lock:
            self._write(value, timestamp or 0.0)
        if SLOTS.error:
            SLOTS.report()

    def _write(self, value: float, timestamp: float, *, add: bool = False) -> None:
        if not SLOTS.taken:
            SLOTS.take()
        self._value = self._value + value if add else value
        self._timestamp = timestamp
        if self._file is not None:
            self._file.write_value(self._key, self._value, timestamp)  # type: ignore[no-untyped-call]

    def get(self) -> float:
        """Return the value, including the counts of earlier processes in this slot."""
        return self._value

    def set_exemplar(self, exemplar: object) -> None:
        """Do nothing: the files cannot store exemplars."""

    def get_exemplar(self) -> None:
        """Return None."""


SLOTS = Slots()
# Set before any metric is created, here or in the service.
values.ValueClass = SharedValue
