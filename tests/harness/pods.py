"""Pods of a rendered project's production overlay, run by podman.

Needs Linux, root, and what `missing_tools` looks for. A pod has a network of its own with nothing
but its loopback, so any number of them listen on the same port and none is reached from outside.
"""

import copy
import http.client
import os
import shutil
import subprocess
import tempfile
import time
import uuid
from collections.abc import Iterator
from contextlib import closing, contextmanager, suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import yaml

from . import images, network
from .images import PODMAN, CommandFailed, Container
from .project import Project
from .server import START_SECONDS, Answer

Manifest = dict[str, Any]

# podman's own limits may be above this machine's.
CONTAINERS_CONF = """
[containers]
default_ulimits = ["nofile=10000:10000", "nproc=5000:5000"]
"""

PLAY = (*PODMAN, "play", "kube", "--network=none", "--log-driver=k8s-file", "-")


def missing_tools() -> list[str]:
    """Return what this machine lacks to run pods."""
    tools = ("kubectl", "catatonit")
    return images.missing_tools() + [tool for tool in tools if shutil.which(tool) is None]


@dataclass(frozen=True)
class Deployment:
    """The Deployment of an overlay and its ConfigMaps, as `kubectl apply -k` sends them."""

    project: Project
    manifest: Manifest
    config: list[Manifest]
    secrets: Path | None = None
    """The directory of the files that a kubelet mounts from its Secret."""

    @classmethod
    def production(cls, project: Project) -> "Deployment":
        """Return that of the production overlay; raises `AssertionError` with kustomize's error."""
        output = project.run("kubectl", "kustomize", "deploy/kubernetes/overlays/production").stdout
        manifests = list(yaml.safe_load_all(output))
        [deployment] = [each for each in manifests if each["kind"] == "Deployment"]
        return cls(project, deployment, [each for each in manifests if each["kind"] == "ConfigMap"])

    def with_command(self, *command: str) -> "Deployment":
        """Return the same with another command of its container."""
        manifest = copy.deepcopy(self.manifest)
        manifest["spec"]["template"]["spec"]["containers"][0]["command"] = list(command)
        return replace(self, manifest=manifest)

    def with_secrets(self, directory: Path, **values: str) -> "Deployment":
        """The same, with files in a directory as a kubelet lays them out; call it again to change
        them."""
        made = directory / f"..{uuid.uuid4().hex}"
        made.mkdir()
        for name, value in values.items():
            (made / name).write_text(value)
            if not (directory / name).is_symlink():
                (directory / name).symlink_to(f"..data/{name}")
        (directory / "..data_tmp").symlink_to(made.name)
        (directory / "..data_tmp").replace(directory / "..data")
        return replace(self, secrets=directory)

    @property
    def spec(self) -> Manifest:
        """The template of its pods."""
        spec: Manifest = self.manifest["spec"]["template"]["spec"]
        return spec

    @property
    def container(self) -> Manifest:
        """Its only container."""
        [container] = self.spec["containers"]
        assert isinstance(container, dict)
        return container

    @property
    def port(self) -> int:
        """Its address."""
        [port] = [port for port in self.container["ports"] if port["name"] == "http"]
        return int(port["containerPort"])

    @property
    def pre_stop_seconds(self) -> int:
        """Seconds of preStop, before SIGTERM."""
        return int(self.container["lifecycle"]["preStop"]["sleep"]["seconds"])

    @property
    def grace_seconds(self) -> int:
        """Seconds from the start of preStop to SIGKILL."""
        return int(self.spec["terminationGracePeriodSeconds"])

    def pod(self, name: str) -> Manifest:
        """The pod of that name, as a ReplicaSet makes it.

        Without what podman does otherwise than a kubelet: it would publish the ports on the host,
        and probe with a curl inside the container. It mounts no Secret: `secrets` takes its place.
        """
        metadata = {**self.manifest["spec"]["template"]["metadata"], "name": name}
        left_out = {"ports", "startupProbe", "readinessProbe", "livenessProbe"}
        container = {key: value for key, value in self.container.items() if key not in left_out}
        mounted = {"hostPath": {"path": str(self.secrets)}} if self.secrets else {"emptyDir": {}}
        volumes = [
            {"name": volume["name"], **mounted} if "secret" in volume else volume
            for volume in self.spec["volumes"]
        ]
        spec = {**self.spec, "containers": [container], "volumes": volumes}
        return {"apiVersion": "v1", "kind": "Pod", "metadata": metadata, "spec": spec}


@dataclass(frozen=True)
class Pod:
    """A started pod."""

    name: str
    container: Container
    pid: int
    """Its first process, as the host numbers it."""
    port: int

    @property
    def namespace(self) -> Path:
        """Its network namespace, while that process lives."""
        return Path(f"/proc/{self.pid}/ns/net")

    def get(self, path: str, **headers: str) -> Answer:
        """GET, over a connection of its own; raises `OSError` when it doesn't answer."""
        return self.ask("GET", path, **headers)

    def ask(self, method: str, path: str, body: str | None = None, **headers: str) -> Answer:
        """As `get`, with any method."""
        return self._ask(self.port, method, path, body, headers)

    def get_from(self, port: int, path: str) -> Answer:
        """As `get`, from one of its ports."""
        return self._ask(port, "GET", path, None, {})

    def _ask(
        self, port: int, method: str, path: str, body: str | None, headers: dict[str, str]
    ) -> Answer:
        with closing(http.client.HTTPConnection(network.LOOPBACK, port)) as connection:
            connection.sock = network.connect(port, self.namespace)
            connection.request(method, path, body, headers)
            response = connection.getresponse()
            named = {name.lower(): value for name, value in response.getheaders()}
            return Answer(response.status, named, response.read())

    def wait_until_ready(self) -> None:
        """Return once it is ready; raises `AssertionError` with its log when it never is."""
        deadline = time.monotonic() + START_SECONDS
        while time.monotonic() < deadline:
            with suppress(OSError, http.client.HTTPException):
                if self.get("/health/ready").status == 200:
                    return
            time.sleep(0.02)
        raise AssertionError(f"not ready:\n{self.container.logs()}")

    def wait_for_log(self, text: str) -> None:
        """Return once its log holds `text`; raises `AssertionError` when it never does."""
        deadline = time.monotonic() + START_SECONDS
        while text not in (log := self.container.logs()):
            if time.monotonic() > deadline:
                raise AssertionError(f"never said {text!r}:\n{log}")
            time.sleep(0.05)


@contextmanager
def image(deployment: Deployment) -> Iterator[None]:
    """Build the project's image, under the name that the manifest has for it, for the block."""
    project = deployment.project
    project.uv("lock", "--quiet")
    images.ensure_bases(project.path / "Dockerfile")
    images.build(project.path, deployment.container["image"])
    try:
        yield
    finally:
        _podman("image", "rm", "--force", deployment.container["image"])


@contextmanager
def run(deployment: Deployment) -> Iterator[Pod]:
    """Start a pod and wait until it is ready; it is gone after the block."""
    name = f"{deployment.manifest['metadata']['name']}-{uuid.uuid4().hex[:5]}"
    container = Container(f"{name}-{deployment.container['name']}")
    try:
        _play([*deployment.config, deployment.pod(name)])
        pid = _podman("container", "inspect", "--format={{.State.Pid}}", container.name)
        pod = Pod(name, container, int(pid), deployment.port)
        pod.wait_until_ready()
        yield pod
    finally:
        _podman("pod", "rm", "--force", "--ignore", "--time=0", name)


def _play(manifests: list[Manifest]) -> None:
    """Hand manifests to podman; raises `CommandFailed`."""
    with tempfile.NamedTemporaryFile("w") as config:
        config.write(CONTAINERS_CONF)
        config.flush()
        done = subprocess.run(
            PLAY,
            env={**os.environ, "CONTAINERS_CONF": config.name},
            input=yaml.safe_dump_all(manifests),
            capture_output=True,
            text=True,
        )
    if done.returncode:
        raise CommandFailed(done.returncode, PLAY, done.stdout, done.stderr)


def _podman(*arguments: str) -> str:
    done = subprocess.run([*PODMAN, *arguments], check=True, capture_output=True, text=True)
    return done.stdout
