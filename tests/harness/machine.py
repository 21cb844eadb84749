"""A booted Debian with systemd, journal, nginx and ssh, in its own namespaces.

Requires Linux and the tools in `missing_tools`. Its only network is a loopback, which is reachable
through `namespace`; uv uses this machine's cache, offline. It is removed after the block, and when
the tests are killed.
"""

import os
import shutil
import subprocess
import uuid
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory

from . import debian
from .images import CERTIFICATES, CommandFailed
from .project import UV
from .wait import wait_until


@dataclass(frozen=True)
class Debian:
    """A supported release of Debian."""

    suite: str
    python: str
    """The Python that it ships."""


DEBIAN_13 = Debian("trixie", "3.13")
"""The release for most tests."""
DEBIAN_12 = Debian("bookworm", "3.11")

# Includes what deploy would install, because the machine has no mirror.
PACKAGES = (
    "ca-certificates",
    "curl",
    "dbus",
    "iproute2",
    "nginx",
    "openssh-client",
    "openssh-server",
    "openssl",
    "procps",
    "python3",
    "python3-venv",
    "systemd",
    "systemd-sysv",
)

ENVIRONMENT = {
    "HOME": "/root",
    "LANG": "C.UTF-8",
    "PATH": "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
}

UV_CACHE = "/var/cache/uv"
UV_SETTINGS = f"""
cache-dir = "{UV_CACHE}"
link-mode = "copy"
offline = true
"""

# When the tests are killed, the kernel kills all processes of the PID namespace, and removes the
# mounts of the mount namespace.
ALONE = (
    *("setpriv", "--pdeathsig=KILL"),
    *("unshare", "--mount", "--pid", "--fork", "--kill-child", "--mount-proc"),
)

# In a separate control group: nspawn creates a group `payload` below it, which two machines can't
# share.
BOOT = """
set -e
for hierarchy in /sys/fs/cgroup /sys/fs/cgroup/systemd /sys/fs/cgroup/unified; do
    if [ -e $hierarchy/cgroup.procs ]; then
        mkdir -p $hierarchy/$0
        echo 0 >$hierarchy/$0/cgroup.procs
    fi
done
mount -t tmpfs tmpfs /run
mount -t overlay -o "lowerdir=$1,upperdir=$2/upper,workdir=$2/work" overlay "$2/root"
cd "$2"
shift 2
exec systemd-nspawn --directory=root --machine="$0" "$@"
"""

# The machine's kernel command line: systemd 257 boots on control groups of version 1 only with it.
KERNEL = ("SYSTEMD_CGROUP_ENABLE_LEGACY_FORCE=1",)

# nspawn's exit status for a reboot.
REBOOT = 133


def missing_tools() -> list[str]:
    """Return what is missing to boot a machine: programs, or `root`."""
    tools = ("mmdebstrap", "nsenter", "setpriv", "systemd-nspawn", "unshare")
    missing = [tool for tool in tools if shutil.which(tool) is None]
    return missing if os.geteuid() == 0 else [*missing, "root"]


@contextmanager
def boot(release: Debian = DEBIAN_13) -> Iterator["Machine"]:
    """Yield a newly installed machine. Raises `AssertionError` if it does not boot."""
    root = debian.tree(release.suite, PACKAGES)
    with TemporaryDirectory(prefix="machine-", ignore_cleanup_errors=True) as directory:
        machine = Machine(root, Path(directory))
        try:
            machine.start()
            yield machine
        finally:
            machine.cut_off()


class Machine:
    """A running or rebooting Debian."""

    def __init__(self, tree: Path, directory: Path) -> None:
        self.name = f"machine-{uuid.uuid4().hex[:8]}"
        self.leader = 0
        """The process ID of its first process, outside its namespaces."""
        self._tree = tree
        self._directory = directory
        self._process: subprocess.Popen[bytes] | None = None
        for name in ("upper", "work", "root"):
            (directory / name).mkdir()
        (directory / "uv.toml").write_text(UV_SETTINGS)
        (directory / "upper/etc").mkdir()
        (directory / "upper/etc/hosts").write_text("127.0.0.1 localhost\n::1 localhost\n")

    @property
    def namespace(self) -> Path:
        """Its network namespace, from which its ports can be reached."""
        return Path(f"/proc/{self.leader}/ns/net")

    @property
    def root(self) -> Path:
        """Its root directory."""
        return Path(f"/proc/{self.leader}/root")

    def start(self) -> None:
        """Boot, and wait until systemd has started the enabled units."""
        cache = subprocess.run([UV, "cache", "dir"], check=True, capture_output=True, text=True)
        binds = (
            f"--bind={cache.stdout.strip()}:{UV_CACHE}",
            f"--bind-ro={UV}:/usr/local/bin/uv",
            f"--bind-ro={self._directory / 'uv.toml'}:/etc/uv/uv.toml",
            f"--bind-ro={CERTIFICATES}",
        )
        options = ("--boot", "--register=no", "--keep-unit", "--private-network", "--console=pipe")
        apart = ("--resolv-conf=off", "--timezone=off", "--link-journal=no")
        firewall = ("--system-call-filter=bpf",)  # for IPAddressDeny= of its systemd
        shell = (*ALONE, "sh", "-c", BOOT, self.name, self._tree, self._directory)
        console = self._directory / "console"
        with console.open("ab") as file:
            self._process = subprocess.Popen(
                [*shell, *options, *apart, *firewall, *binds, *KERNEL],
                stdin=subprocess.DEVNULL,
                stdout=file,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        self.wait_until(self._booted, "booted")

    def _booted(self) -> bool:
        assert self._process
        console = self._directory / "console"
        assert self._process.poll() is None, console.read_text(errors="replace")
        for nspawn in _children(self._process.pid):
            for leader in _children(nspawn):
                if _program(leader) == "systemd":
                    self.leader = leader
                    state = self.run("systemctl", "is-system-running", check=False).stdout.strip()
                    assert state != "degraded", self.run("systemctl", "--failed").stdout
                    return state == "running"
        return False

    def run(
        self,
        *command: str,
        stdin: str = "",
        env: Mapping[str, str] | None = None,
        check: bool = True,
        timeout: float = 600,
    ) -> subprocess.CompletedProcess[str]:
        """Run a command inside as root; its stdout and stderr are combined in `stdout`.

        Raises `CommandFailed` if it fails, `subprocess.TimeoutExpired` after `timeout` seconds.
        """
        result = subprocess.run(
            ["nsenter", f"--target={self.leader}", "--all", *command],
            input=stdin,
            env={**ENVIRONMENT, **(env or {})},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=timeout,
        )
        if check and result.returncode:
            raise CommandFailed(result.returncode, command, result.stdout, "")
        return result

    def journal(self, unit: str) -> list[str]:
        """Return the log lines of a unit, including systemd's, since the machine was created."""
        self.run("journalctl", "--sync")
        return self.run(
            "journalctl", "--output=cat", "--quiet", f"--unit={unit}"
        ).stdout.splitlines()

    def show(self, unit: str, field: str) -> str:
        """Return a property of a unit, such as `MainPID` or `ActiveState`."""
        return self.run("systemctl", "show", "--value", f"--property={field}", unit).stdout.strip()

    def wait_until(self, condition: Callable[[], bool], what: str, *, seconds: float = 300) -> None:
        """Wait until the condition is true. Raises `AssertionError` with `what` after a timeout."""
        wait_until(condition, what, seconds=seconds)

    def reboot(self) -> None:
        """Reboot, keeping the files."""
        assert self._process
        self.run("systemctl", "reboot", check=False)
        assert self._process.wait(timeout=300) == REBOOT
        self.start()

    def cut_off(self) -> None:
        """Kill all of its processes."""
        if self._process is None:
            return
        if self._process.poll() is None:
            self._process.kill()  # which kills all processes inside
        self._process.wait()
        for hierarchy in Path("/sys/fs/cgroup").glob(f"**/{self.name}"):
            self.wait_until(partial(_removed, hierarchy), "empty")


def _children(process: int) -> list[int]:
    with suppress(FileNotFoundError):
        children = Path(f"/proc/{process}/task/{process}/children").read_text()
        return [int(child) for child in children.split()]
    return []


def _program(process: int) -> str | None:
    with suppress(OSError):  # it may have ended
        return os.path.basename(os.readlink(f"/proc/{process}/exe"))
    return None


def _removed(group: Path) -> bool:
    """Remove a control group and its children; return whether it is removed."""
    for directory, _, _ in os.walk(group, topdown=False):
        with suppress(OSError):
            os.rmdir(directory)
    return not group.exists()
