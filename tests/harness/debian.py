"""A Debian root directory, created once and kept for the next run.

Needs root and mmdebstrap, and a mirror the first time.
"""

import fcntl
import hashlib
import subprocess
import tempfile
from pathlib import Path

from .images import CommandFailed

CACHE = Path("/var/cache/fastapi-service-template")


def tree(suite: str, packages: tuple[str, ...]) -> Path:
    """Return the root of a Debian with those packages. It is shared: do not write to it.

    Processes that ask at once wait for each other. Raises `CommandFailed` when it can't be made.
    """
    key = hashlib.sha256(" ".join(packages).encode()).hexdigest()[:12]
    root = CACHE / f"{suite}-{key}"
    CACHE.mkdir(parents=True, exist_ok=True)
    with (CACHE / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not root.exists():
            _make(suite, packages, root)
    return root


def _make(suite: str, packages: tuple[str, ...], root: Path) -> None:
    """Create it under another name first, so that an existing one is complete."""
    with tempfile.TemporaryDirectory(dir=CACHE) as unfinished:
        made = Path(unfinished, "root")
        command = ["mmdebstrap", "--variant=minbase", f"--include={','.join(packages)}"]
        done = subprocess.run([*command, suite, str(made)], capture_output=True, text=True)
        if done.returncode:
            raise CommandFailed(done.returncode, command, done.stdout, done.stderr)
        made.rename(root)


# Mounts are visible to this process only, and end with it.
CHROOT = """
set -e
mount -t tmpfs tmpfs /mnt
mkdir /mnt/upper /mnt/work /mnt/root
cp -a "$2/." /mnt/upper
mount -t overlay -o "lowerdir=$1,upperdir=/mnt/upper,workdir=/mnt/work" overlay /mnt/root
shift 2
exec chroot /mnt/root "$@"
"""


def run_in(root: Path, files: Path, *command: str) -> subprocess.CompletedProcess[str]:
    """Run a command in a tree with those files added, for its own eyes; its streams as one.

    It has no network and nothing of it stays.
    """
    shell = ("unshare", "--mount", "--net", "sh", "-c", CHROOT, "sh", str(root), str(files))
    return subprocess.run(
        [*shell, *command], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )
