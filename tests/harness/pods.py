"""Pods of a rendered project's production overlay, run by podman.

Requires Linux, root, and the tools in `missing_tools`. Each pod has its own network namespace with
only a loopback, so several can listen on the same port, and none can be reached from outside.
"""

import copy
import http.client
import os
import shutil
import subprocess
import tempfile
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
from .server import HttpResponse
from .wait import wait_until

Manifest = dict[str, Any]

# podman's own limits may be above this machine's.
CONTAINERS_CONF = """
[containers]
default_ulimits = ["nofile=10000:10000", "nproc=5000:5000"]
"""

PLAY = (*PODMAN, "play", "kube", "--network=none", "--log-driver=k8s-file", "-")


def missing_tools() -> list[str]:
    """Return the missing programs, or `root`."""
    tools = ("kubectl", "catatonit")
    return images.missing_tools() + [tool for tool in tools if shutil.which(tool) is None]


@dataclass(frozen=True)
class Deployment:
    """The Deployment of an overlay and its ConfigMaps, as kustomize renders them."""

    project: Project
    manifest: Manifest
    config: list[Manifest]
    secrets: Path | None = None
    """The directory with the files of its Secret."""

    @classmethod
    def production(cls, project: Project) -> "Deployment":
        """Return that of the production overlay. Raises `AssertionError` if kustomize fails."""
        output = project.run("kubectl", "kustomize", "deploy/kubernetes/overlays/production").stdout
        manifests = list(yaml.safe_load_all(output))
        [deployment] = [manifest for manifest in manifests if manifest["kind"] == "Deployment"]
        config = [manifest for manifest in manifests if manifest["kind"] == "ConfigMap"]
        return cls(project, deployment, config)

    def with_command(self, *command: str) -> "Deployment":
        """Return the same with another command of its container."""
        manifest = copy.deepcopy(self.manifest)
        manifest["spec"]["template"]["spec"]["containers"][0]["command"] = list(command)
        return replace(self, manifest=manifest)

    def with_user(self, user: int, group: int) -> "Deployment":
        """Return the same with other IDs of its user and group."""
        manifest = copy.deepcopy(self.manifest)
        ids = {"runAsUser": user, "runAsGroup": group}
        manifest["spec"]["template"]["spec"]["securityContext"].update(ids)
        return replace(self, manifest=manifest)

    def with_secrets(self, directory: Path, **values: str) -> "Deployment":
        """Return the same with secret files, in the layout of a kubelet.

        Another call with the same directory changes them.
        """
        version = directory / f"..{uuid.uuid4().hex}"
        version.mkdir()
        for name, value in values.items():
            (version / name).write_text(value)
            if not (directory / name).is_symlink():
                (directory / name).symlink_to(f"..data/{name}")
        (directory / "..data_tmp").symlink_to(version.name)
        (directory / "..data_tmp").replace(directory / "..data")
        return replace(self, secrets=directory)

    @property
    def spec(self) -> Manifest:
        """The pod template's spec."""
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
        """The port of its HTTP server."""
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
        """Return the pod of that name, as a ReplicaSet makes it.

        Without what podman does otherwise than a kubelet: it would publish the ports on the host,
        and probe with a curl inside the container. It mounts no Secret: `secrets` takes its place.
        Its volumes are named after the pod, because podman 4.3 shares an emptyDir between pods that
        have the same name for it.
        """
        metadata = {**self.manifest["spec"]["template"]["metadata"], "name": name}
        left_out = {"ports", "startupProbe", "readinessProbe", "livenessProbe", "volumeMounts"}
        container = {key: value for key, value in self.container.items() if key not in left_out}
        container["volumeMounts"] = [
            {**mount, "name": f"{name}-{mount['name']}"} for mount in self.container["volumeMounts"]
        ]
        mounted = {"hostPath": {"path": str(self.secrets)}} if self.secrets else {"emptyDir": {}}
        volumes = []
        for volume in self.spec["volumes"]:
            source = {key: value for key, value in volume.items() if key != "name"}
            source = mounted if "secret" in source else source
            volumes.append({"name": f"{name}-{volume['name']}", **source})
        spec = {**self.spec, "containers": [container], "volumes": volumes}
        return {"apiVersion": "v1", "kind": "Pod", "metadata": metadata, "spec": spec}


@dataclass(frozen=True)
class Pod:
    """A started pod."""

    name: str
    container: Container
    pid: int
    """The host's process ID of its first process."""
    port: int

    @property
    def namespace(self) -> Path:
        """Its network namespace, which exists while that process runs."""
        return Path(f"/proc/{self.pid}/ns/net")

    def get(self, path: str, **headers: str) -> HttpResponse:
        """Send a GET request on a new connection. Raises `OSError` if there is no response."""
        return self.request("GET", path, **headers)

    def request(
        self, method: str, path: str, body: str | None = None, **headers: str
    ) -> HttpResponse:
        """Like `get`, with any method."""
        return self._request(self.port, method, path, body, headers)

    def get_from(self, port: int, path: str) -> HttpResponse:
        """Like `get`, on another port."""
        return self._request(port, "GET", path, None, {})

    def _request(
        self, port: int, method: str, path: str, body: str | None, headers: dict[str, str]
    ) -> HttpResponse:
        with closing(http.client.HTTPConnection(network.LOOPBACK, port)) as connection:
            connection.sock = network.connect(port, self.namespace)
            connection.request(method, path, body, headers)
            response = connection.getresponse()
            named = {name.lower(): value for name, value in response.getheaders()}
            return HttpResponse(response.status, named, response.read())

    def wait_until_ready(self) -> None:
        """Wait until it is ready. Raises `AssertionError` with its log after a timeout."""

        def ready() -> bool:
            with suppress(OSError, http.client.HTTPException):
                return self.get("/health/ready").status == 200
            return False

        wait_until(ready, "ready", self.container.logs)

    def wait_for_log(self, text: str) -> None:
        """Wait until its log contains `text`. Raises `AssertionError` after a timeout."""
        logs = self.container.logs
        wait_until(lambda: text in logs(), f"{text!r} in the log", logs)


@contextmanager
def image(deployment: Deployment) -> Iterator[None]:
    """Build the project's image, with the name in the manifest; delete it after the block."""
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
    """Run a pod for the block, and wait until it is ready."""
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
    """Run manifests with podman. Raises `CommandFailed`."""
    with tempfile.NamedTemporaryFile("w") as config:
        config.write(CONTAINERS_CONF)
        config.flush()
        result = subprocess.run(
            PLAY,
            env={**os.environ, "CONTAINERS_CONF": config.name},
            input=yaml.safe_dump_all(manifests),
            capture_output=True,
            text=True,
        )
    if result.returncode:
        raise CommandFailed(result.returncode, PLAY, result.stdout, result.stderr)


def _podman(*arguments: str) -> str:
    result = subprocess.run([*PODMAN, *arguments], check=True, capture_output=True, text=True)
    return result.stdout
