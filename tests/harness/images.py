"""Builds a rendered project's image and runs it as a restricted pod, without a Docker engine.

Requires Linux, root, and the tools in `missing_tools`. If a base image can't be pulled, a local
substitute of the same name is built, so that the Dockerfile is tested unchanged.
"""

import fcntl
import os
import re
import shutil
import subprocess
import sys
import tarfile
import tempfile
import uuid
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from signal import Signals

CERTIFICATES = Path("/etc/ssl/certs/ca-certificates.crt")
"""Path of Debian's CA certificates, on this machine and in the substitutes."""

DEBIAN_WITH_PYTHON = {"3.13": "trixie", "3.14": "forky"}
"""The Debian suite that ships a Python version, for substitutes."""

NGINX_CONF = """
user nginx;
worker_processes auto;
error_log /var/log/nginx/error.log notice;
pid /run/nginx.pid;
events { worker_connections 1024; }
http {
    include /etc/nginx/mime.types;
    default_type application/octet-stream;
    access_log /var/log/nginx/access.log;
    sendfile on;
    keepalive_timeout 65;
    include /etc/nginx/conf.d/*.conf;
}
"""
"""Configuration of the nginx image, for its substitute."""

POSTGRESQL_ENTRYPOINT = """\
#!/bin/sh
set -e
PATH=$(echo /usr/lib/postgresql/*/bin):$PATH
export PGDATA=${PGDATA:-/var/lib/postgresql/data}
if [ ! -s "$PGDATA/PG_VERSION" ]; then
    initdb --username=postgres --auth="$POSTGRES_HOST_AUTH_METHOD"
    echo "host all all all $POSTGRES_HOST_AUTH_METHOD" >>"$PGDATA/pg_hba.conf"
fi
exec postgres -c listen_addresses='*'
"""
"""Entrypoint of the postgres image, for its substitute."""

PODMAN = ("podman", "--runtime=runc", "--cgroup-manager=cgroupfs", "--log-level=error")

BUILD = (
    "--isolation=chroot",
    "--pull-never",
    "--format=docker",
    "--layers=false",  # buildah's cache ignores changes of bind-mounted files
)

RESTRICTED = (
    "--read-only",
    "--read-only-tmpfs=false",  # podman would make /tmp writable, a pod does not
    "--cap-drop=ALL",
    "--security-opt=no-new-privileges",
    "--no-healthcheck",
    "--ulimit=nofile=10000:10000",  # podman's own limits may be above this machine's
    "--ulimit=nproc=5000:5000",
    "--network=host",
    "--log-driver=k8s-file",
    "--pull=never",
)


class CommandFailed(subprocess.CalledProcessError):
    """A command that exited with an error; its message ends with the tail of the output."""

    def __str__(self) -> str:
        streams = [text.strip().splitlines()[-30:] for text in (self.stdout, self.stderr)]
        return "\n".join([super().__str__(), *streams[0], *streams[1]])


def missing_tools() -> list[str]:
    """Return what is missing to build and run images: programs, or `root`."""
    tools = ("buildah", "podman", "mmdebstrap", "runc")
    missing = [tool for tool in tools if shutil.which(tool) is None]
    return missing if os.geteuid() == 0 else [*missing, "root"]


def base_images(dockerfile: Path) -> list[str]:
    """Return the full names of the base images of a Dockerfile, in order, without duplicates."""
    text = re.sub(r"^\s*#.*$", "", dockerfile.read_text(), flags=re.MULTILINE)
    stages = re.findall(r"^FROM\s.*\sAS\s+(\S+)", text, re.MULTILINE | re.IGNORECASE)
    named = re.findall(r"^FROM\s+(?:--\S+\s+)*(\S+)|(?:--|[=,])from=([^\s,]+)", text, re.MULTILINE)
    images = [first or second for first, second in named]
    own = {"scratch", *stages}
    return list(dict.fromkeys(_full_name(i) for i in images if i not in own and not i.isdigit()))


def ensure_bases(dockerfile: Path) -> list[str]:
    """Pull or build the base images of a Dockerfile, and return their full names.

    A missing image is pulled, or else built as a substitute. Prints the name of each substitute in
    use. Concurrent calls of several processes are serialized.

    Raises `LookupError` for an image that can't be pulled and has no substitute, `CommandFailed`
    if the build of a substitute fails.
    """
    images = base_images(dockerfile)
    ensure(images)
    return images


def ensure(images: Sequence[str]) -> None:
    """Pull or build images by their full names, like `ensure_bases`."""
    with _lock():
        for image in images:
            if (substitute := _substitute_label(image)) is None and not _pull(image):
                substitute = _build_substitute(image)
            if substitute:
                print(f"{image} is a substitute: {substitute}")


def build(project: Path, tag: str) -> None:
    """Build the image `tag` with a project's Dockerfile; its base images must exist.

    Raises `CommandFailed` with the end of the build's output.
    """
    volume = f"{CERTIFICATES}:{CERTIFICATES}:ro"
    _output("buildah", "bud", *BUILD, f"--volume={volume}", f"--tag={tag}", str(project))


@dataclass(frozen=True)
class Container:
    """A container. Its logs and exit code can be read until the end of the `run` block.

    Methods raise `CommandFailed` if podman fails, for example to signal an exited container.
    """

    name: str

    def logs(self) -> str:
        """Return its output so far, stdout and stderr together."""
        return _output(*PODMAN, "logs", self.name, stderr=subprocess.STDOUT)

    def runs(self) -> bool:
        """Return whether it is running."""
        state = _output(*PODMAN, "container", "inspect", "--format={{.State.Running}}", self.name)
        return state.strip() == "true"

    def kill(self, signal: Signals = Signals.SIGTERM) -> None:
        """Send a signal to PID 1."""
        _output(*PODMAN, "kill", "--signal", signal.name, self.name)

    def wait(self, timeout: float) -> int:
        """Return the exit code; raises `subprocess.TimeoutExpired` after `timeout` seconds."""
        return int(_output(*PODMAN, "wait", self.name, timeout=timeout))

    def stop(self, seconds: int) -> int:
        """Stop it with SIGTERM, and SIGKILL after `seconds`; return the exit code."""
        _output(*PODMAN, "stop", f"--time={seconds}", self.name)
        return self.wait(timeout=120)

    def workers(self) -> int:
        """Return how many workers its gunicorn starts, from inside."""
        printed = self.exec(["gunicorn", "--config=gunicorn.conf.py", "--print-config"]).stdout
        [number] = re.findall(r"^workers += (\d+)$", printed, re.MULTILINE)
        return int(number)

    def exec(self, argv: Sequence[str]) -> subprocess.CompletedProcess[str]:
        """Run a command inside; the caller checks `returncode`."""
        command = [*PODMAN, "exec", self.name, *argv]
        return subprocess.run(command, capture_output=True, text=True)


@contextmanager
def run(
    tag: str,
    *,
    env: Mapping[str, str],
    command: Sequence[str] = (),
    extra: Sequence[str] = (),
    memory: str = "256m",
    cpus: float = 1.0,
) -> Iterator[Container]:
    """Run an image for the block, with the restrictions of a pod, on the host's network.

    `command` replaces the image's CMD; `extra` are more options of `podman run`, such as
    `--tmpfs=/tmp`. `memory` is in podman's notation, `cpus` a number of cores.

    Raises `CommandFailed` if the container can't be started.
    """
    container = Container(f"{tag.rpartition('/')[2].partition(':')[0]}-{uuid.uuid4().hex[:8]}")
    options = [f"--name={container.name}", f"--memory={memory}", f"--cpus={cpus}"]
    options += [f"--env={name}={value}" for name, value in env.items()]
    try:
        _output(*PODMAN, "run", "--detach", *RESTRICTED, *options, *extra, tag, *command)
        yield container
    finally:
        _output(*PODMAN, "rm", "--force", "--ignore", "--time=0", container.name)


def _full_name(image: str) -> str:
    """Return the full name of an image: `docker.io/library/python:3.14` for `python:3.14`."""
    host, slash, _ = image.partition("/")
    if not slash:
        return f"docker.io/library/{image}"
    return image if "." in host or ":" in host or host == "localhost" else f"docker.io/{image}"


@contextmanager
def _lock() -> Iterator[None]:
    """Hold a lock of this machine for the block."""
    with (Path(tempfile.gettempdir()) / "substitute-images.lock").open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def _substitute_label(image: str) -> str | None:
    """Return the label of a stored substitute, "" for a real image, None if it is not stored."""
    label = '{{with index .Labels "substitute"}}{{.}}{{end}}'
    inspect = [*PODMAN, "image", "inspect", "--format", label, image]
    result = subprocess.run(inspect, capture_output=True, text=True)
    return result.stdout.strip() if result.returncode == 0 else None


def _pull(image: str) -> bool:
    """Pull an image, within two minutes; return whether it succeeded."""
    pull = [*PODMAN, "pull", "--quiet", image]
    try:
        return subprocess.run(pull, capture_output=True, timeout=120).returncode == 0
    except subprocess.TimeoutExpired:
        return False


def _build_substitute(image: str) -> str:
    """Build a substitute with the name of an image; return its label."""
    changes: list[str] = []
    with tempfile.TemporaryDirectory() as directory:
        rootfs = Path(directory) / "rootfs.tar"
        if uv := re.fullmatch(r"ghcr\.io/astral-sh/uv:([\d.]+)", image):
            label = _uv_rootfs(uv[1], rootfs)
        elif python := re.fullmatch(r"docker\.io/library/python:(3\.\d+)-slim-trixie", image):
            label = _python_rootfs(python[1], rootfs)
        elif re.fullmatch(r"docker\.io/library/nginx:1\.\d+", image):
            label = _nginx_rootfs(rootfs)
            changes = ['CMD ["nginx", "-g", "daemon off;"]', "STOPSIGNAL SIGQUIT"]
        elif re.fullmatch(r"docker\.io/library/postgres:\d+", image):
            label = _postgresql_rootfs(rootfs)
            changes = ['ENTRYPOINT ["/usr/local/bin/docker-entrypoint.sh"]']
        else:
            raise LookupError(f"{image}: it can't be pulled, and has no substitute")
        changes += [
            "ENV PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
            f"ENV SSL_CERT_FILE={CERTIFICATES}",
            f'LABEL substitute="{label}"',
        ]
        options = [f"--change={change}" for change in changes]
        _output(*PODMAN, "import", "--quiet", *options, str(rootfs), image)
        return label


def _uv_rootfs(version: str, rootfs: Path) -> str:
    """Write `/uv` and `/uvx` of the version's wheel to a tar file; return a label."""
    wheel = rootfs.parent / "wheel"
    uv = shutil.which("uv") or str(Path(sys.executable).with_name("uv"))
    options = ("--quiet", "--no-deps", "--python", sys.executable, "--target", str(wheel))
    _output(uv, "pip", "install", *options, f"uv=={version}")
    with tarfile.open(rootfs, "w") as tar:
        for name in ("uv", "uvx"):
            tar.add(wheel / "bin" / name, name)
    return f"the binaries of the uv {version} wheel"


def _python_rootfs(version: str, rootfs: Path) -> str:
    """Write a Debian that ships this Python, linked as in the real image; return a label."""
    if version not in DEBIAN_WITH_PYTHON:
        raise LookupError(f"no Debian suite is known to ship Python {version}")
    suite = DEBIAN_WITH_PYTHON[version]
    options = ["--variant=minbase", f"--include=ca-certificates,python{version}-venv"]
    options += ['--aptopt=Acquire::Check-Valid-Until "false"']
    for name in ("python", "python3"):
        link = f'ln -s /usr/bin/python{version} "$1/usr/local/bin/{name}"'
        options += [f"--customize-hook={link}"]
    _output("mmdebstrap", *options, suite, str(rootfs))
    return f"Debian {suite} with its Python {version}"


def _nginx_rootfs(rootfs: Path) -> str:
    """Write a Debian with its nginx, with the configuration of the real image; return a label."""
    configuration = rootfs.parent / "nginx.conf"
    configuration.write_text(NGINX_CONF)
    links = {
        "/var/log/nginx/access.log": "/dev/stdout",
        "/var/log/nginx/error.log": "/dev/stderr",
        "/var/lib/nginx": "/var/cache/nginx",
    }
    options = ["--variant=minbase", "--include=nginx"]
    options += ['--customize-hook=useradd --root "$1" --system --uid 101 --user-group nginx']
    options += [f"--customize-hook=copy-in {configuration} /etc/nginx"]
    for name, target in links.items():
        options += [f'--customize-hook=rm -rf "$1{name}" && ln -s {target} "$1{name}"']
    _output("mmdebstrap", *options, "trixie", str(rootfs))
    return "Debian trixie with its nginx"


def _postgresql_rootfs(rootfs: Path) -> str:
    """Write a Debian with its PostgreSQL and the entrypoint of the real image; return a label."""
    entrypoint = rootfs.parent / "docker-entrypoint.sh"
    entrypoint.write_text(POSTGRESQL_ENTRYPOINT)
    entrypoint.chmod(0o755)
    settings = '"$1/etc/postgresql-common"'
    options = ["--variant=minbase", "--include=postgresql"]
    options += ['--aptopt=Acquire::Check-Valid-Until "false"']
    for line in (
        'echo "postgres:x:999:999::/var/lib/postgresql:/bin/sh" >>"$1/etc/passwd"',
        'echo "postgres:x:999:" >>"$1/etc/group"',
        f"mkdir -p {settings} && echo create_main_cluster=false >{settings}/createcluster.conf",
    ):
        options += [f"--essential-hook={line}"]
    options += [f"--customize-hook=copy-in {entrypoint} /usr/local/bin"]
    _output("mmdebstrap", *options, "forky", str(rootfs))
    return "Debian forky with its PostgreSQL"


def _output(*argv: str, stderr: int = subprocess.PIPE, timeout: float | None = None) -> str:
    """Return the stdout of a command. Raises `CommandFailed`, or `subprocess.TimeoutExpired`."""
    result = subprocess.run(argv, stdout=subprocess.PIPE, stderr=stderr, text=True, timeout=timeout)
    if result.returncode:
        raise CommandFailed(result.returncode, argv, result.stdout, result.stderr or "")
    return result.stdout
