"""A Debian root directory, cached between runs.

Requires root and mmdebstrap, and a mirror for the first run.
"""

import fcntl
import hashlib
import subprocess
import tempfile
from pathlib import Path

from .images import CommandFailed

CACHE = Path("/var/cache/fastapi-service-template")


def tree(suite: str, packages: tuple[str, ...]) -> Path:
    """Return the root directory of a Debian with these packages; shared, so do not change it.

    Concurrent calls of several processes are serialized. Raises `CommandFailed`.
    """
    key = hashlib.sha256(" ".join(packages).encode()).hexdigest()[:12]
    root = CACHE / f"{suite}-{key}"
    CACHE.mkdir(parents=True, exist_ok=True)
    with (CACHE / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not root.exists():
            _create(suite, packages, root)
    return root


def _create(suite: str, packages: tuple[str, ...], root: Path) -> None:
    """Create it with a temporary name, so that an existing directory is complete."""
    with tempfile.TemporaryDirectory(dir=CACHE) as temporary:
        created = Path(temporary, "root")
        command = ["mmdebstrap", "--variant=minbase", f"--include={','.join(packages)}"]
        result = subprocess.run([*command, suite, str(created)], capture_output=True, text=True)
        if result.returncode:
            raise CommandFailed(result.returncode, command, result.stdout, result.stderr)
        created.rename(root)


# Mounts are visible only to this process, and removed when it ends.
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
    """Run a command in a copy of a tree with `files` added; stdout and stderr are combined.

    It has no network, and its changes are discarded.
    """
    shell = ("unshare", "--mount", "--net", "sh", "-c", CHROOT, "sh", str(root), str(files))
    return subprocess.run(
        [*shell, *command], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )
