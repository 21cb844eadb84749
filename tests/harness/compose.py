"""Containers of a rendered project's Compose file, run by podman-compose.

Requires Linux, root, and the tools in `missing_tools`. Their host network is a separate namespace,
so ports 80 and 9090 are free, and can't be reached from outside.
"""

import http.client
import os
import shutil
import ssl
import subprocess
import sys
import tempfile
import uuid
from collections.abc import Iterator, Mapping
from contextlib import closing, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

import yaml

from . import images, network
from .images import PODMAN, CommandFailed, Container
from .project import Project
from .server import HttpResponse
from .wait import wait_until

FILES = ("deploy/vm/compose.yaml",)

# podman's own limits may be above this machine's.
CONTAINERS_CONF = """
[containers]
default_ulimits = ["nofile=10000:10000", "nproc=5000:5000"]
[engine]
runtime = "runc"
cgroup_manager = "cgroupfs"
"""

NETWORK = ("unshare", "--net", "sh", "-c", "ip link set lo up && echo up && exec cat")


def missing_tools() -> list[str]:
    """Return the missing programs, or `root`."""
    tools = ("ip", "iptables", "nsenter", "unshare")
    return images.missing_tools() + [tool for tool in tools if shutil.which(tool) is None]


@dataclass(frozen=True)
class Stack:
    """Running containers of a Compose file."""

    name: str
    project: Project
    files: tuple[str, ...]
    namespace: Path
    """The network namespace of their host."""
    environment: Mapping[str, str]

    def compose(self, *arguments: str) -> str:
        """Run podman-compose and return its output. Raises `CommandFailed`."""
        command = ["nsenter", f"--net={self.namespace}", sys.executable, "-m", "podman_compose"]
        command += [f"--project-name={self.name}", *(f"--file={file}" for file in self.files)]
        result = subprocess.run(
            [*command, *arguments],
            cwd=self.project.path,
            env={**os.environ, **self.environment},
            capture_output=True,
            text=True,
        )
        if result.returncode:
            raise CommandFailed(result.returncode, command, result.stdout, result.stderr)
        return result.stdout

    def container(self, service: str) -> Container:
        """Return the container of a service."""
        return Container(f"{self.name}_{service}_1")

    def start(self, service: str) -> None:
        """Start a service; its image must exist."""
        self.compose("--profile=next", "up", "--detach", "--no-build", service)

    def wait_until_healthy(self, service: str) -> None:
        """Wait until it is healthy. Raises `AssertionError` with its log after a timeout."""
        # podman schedules health checks with systemd, which may be missing.
        check = [*PODMAN, "healthcheck", "run", self.container(service).name]

        def healthy() -> bool:
            return subprocess.run(check, capture_output=True).returncode == 0

        wait_until(healthy, "healthy", self.container(service).logs)

    def wait_for_log(self, service: str, text: str) -> None:
        """Wait until its log contains `text`. Raises `AssertionError` after a timeout."""
        container = self.container(service)
        wait_until(lambda: text in container.logs(), f"{text!r} in the log", container.logs)

    def request(
        self,
        path: str,
        *,
        method: str = "GET",
        port: int = 80,
        body: bytes | None = None,
        source: str = network.LOOPBACK,
        tls: ssl.SSLContext | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> HttpResponse:
        """Send a request to a port of the host, from the address `source`. Raises `OSError`."""
        with closing(http.client.HTTPConnection("localhost", port)) as connection:
            connection.sock = network.connect(port, self.namespace, source=source)
            if tls:
                connection.sock = tls.wrap_socket(connection.sock, server_hostname="localhost")
            connection.request(method, path, body, headers or {})
            response = connection.getresponse()
            named = {name.lower(): value for name, value in response.getheaders()}
            return HttpResponse(response.status, named, response.read())

    def wait_until_ready(self, port: int = 80, tls: ssl.SSLContext | None = None) -> None:
        """Wait until it is ready through nginx. Raises `AssertionError` after a timeout."""

        def ready() -> bool:
            with suppress(OSError, http.client.HTTPException):
                return self.request("/health/ready", port=port, tls=tls).status == 200
            return False

        wait_until(ready, "ready", self.container("nginx").logs)


def services(project: Project) -> dict[str, dict[str, object]]:
    """Return the configuration of each service in the Compose file."""
    found: dict[str, dict[str, object]] = yaml.safe_load((project.path / FILES[0]).read_text())[
        "services"
    ]
    return found


@contextmanager
def image(project: Project) -> Iterator[None]:
    """Build the image of the Compose file, and pull nginx's, for the block."""
    project.uv("lock", "--quiet")
    images.ensure_bases(project.path / "Dockerfile")
    images.ensure([f"docker.io/library/{services(project)['nginx']['image']}"])
    tag = f"localhost/{project.answers['project_slug']}"
    images.build(project.path, tag)
    try:
        yield
    finally:
        subprocess.run([*PODMAN, "image", "rm", "--force", tag], check=True, capture_output=True)


@contextmanager
def run(
    project: Project,
    files: tuple[str, ...] = FILES,
    env: Mapping[str, str] | None = None,
    services: tuple[str, ...] = ("app", "nginx"),
) -> Iterator[Stack]:
    """Run services of a project for the block; its image must exist."""
    with (
        tempfile.NamedTemporaryFile("w") as config,
        subprocess.Popen(NETWORK, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as host,
    ):
        assert host.stdout
        assert host.stdout.readline() == "up\n"
        config.write(CONTAINERS_CONF)
        config.flush()
        podman = {"CONTAINERS_CONF": config.name, "DISABLE_HC_SYSTEMD": "true"}
        namespace = Path(f"/proc/{host.pid}/ns/net")
        name = f"{project.answers['project_slug']}-{uuid.uuid4().hex[:5]}"
        stack = Stack(name, project, files, namespace, {**podman, **(env or {})})
        try:
            for service in services:
                stack.start(service)
            yield stack
        finally:
            stack.compose("--profile=next", "down", "--volumes", "--timeout=1")
            assert host.stdin
            host.stdin.close()
