"""A Kubernetes cluster of two nodes in its own namespaces, run by `tests/cluster/run`.

Requires Linux, root, the tools in `missing_tools`, and the programs of `tests/cluster/build`, from
Go modules. No traffic leaves the namespaces. Only the programs remain on the machine.
"""

import json
import os
import shutil
import signal
import subprocess
import tarfile
import tempfile
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import yaml

from . import contents, golang, images
from .images import PODMAN, CommandFailed
from .pods import Deployment
from .template import ROOT
from .wait import wait_until

PARTS = ROOT / "tests/cluster"
PLUGINS = Path("/usr/lib/cni")
PAUSE = "registry.example.com/pause:1"
REGISTRY = "192.0.2.10:5000"
PUSH = ("buildah", "push", "--quiet", "--tls-verify=false", "--disable-compression")
"""Compressed, an image takes 10 s of CPU time on its way to both nodes."""

START_SECONDS = 600
WAIT_SECONDS = 600

# Kinds that require an operator.
CUSTOM = ("HTTPRoute", "PodMonitor", "PrometheusRule")

UVICORN_WITHOUT_DRAIN = (
    "from unittest.mock import patch; from uvicorn.main import main; "
    "patch('{package}.serving.lifecycle.lifespan.drain_before_shutdown').start(); main()"
)

NAMESPACE = """
apiVersion: v1
kind: Namespace
metadata: {{name: {namespace}}}
"""
CLIENT = """
apiVersion: v1
kind: Pod
metadata: {{name: client, namespace: {namespace}}}
spec:
  nodeName: node1
  automountServiceAccountToken: false
  terminationGracePeriodSeconds: 0
  containers: [{{name: client, image: {image}}}]
"""


def missing_tools() -> list[str]:
    """Return what this machine lacks to run a cluster, including the programs of Kubernetes."""
    tools = ("catatonit", "ip", "ipset", "iptables", "nft", "nsenter", "openssl", "unshare")
    missing = [tool for tool in tools if shutil.which(tool) is None]
    if not (PLUGINS / "ptp").exists():
        missing.append("containernetworking-plugins")
    if not Path(_build("--where")).exists():
        if not os.environ.get("DEMAND_EVERY_TIER"):
            missing.append("the programs that tests/cluster/build builds once, in a few minutes")
        elif golang.program() is None:
            missing.append("Go")
    return [*images.missing_tools(), *missing]


def _build(*options: str) -> str:
    """Return the directory of the programs; build them first, unless `--where` is stdin."""
    result = subprocess.run([PARTS / "build", *options], stdout=subprocess.PIPE, text=True)
    if result.returncode:
        raise CommandFailed(result.returncode, "tests/cluster/build", result.stdout, "")
    return result.stdout.strip()


@contextmanager
def run() -> Iterator["Kubernetes"]:
    """Run a cluster whose nodes are Ready for the block."""
    programs = Path(_build())
    with tempfile.TemporaryDirectory(prefix="cluster-", ignore_cleanup_errors=True) as directory:
        cluster = Kubernetes(Path(directory), programs)
        try:
            cluster.start()
            yield cluster
        finally:
            cluster.stop()


class Kubernetes:
    """A running cluster."""

    def __init__(self, directory: Path, programs: Path) -> None:
        self.directory = directory
        self.programs = programs
        self._process: subprocess.Popen[bytes]
        self.pid = 0
        """The process ID of its first process, outside its namespaces."""

    def start(self) -> None:
        """Start it. Raises `AssertionError` with the ends of its logs."""
        unshare = ("unshare", "--net", "--mount", "--pid", "--fork", "--kill-child", "--mount-proc")
        with (self.directory / "log").open("wb") as log:
            self._process = subprocess.Popen(
                [
                    *("setpriv", "--pdeathsig=KILL", *unshare, "--propagation=private"),
                    *(PARTS / "run", self.directory, self.programs),
                ],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )
        self._wait_until(
            lambda: (self.directory / "ready").exists(), "ready", self.logs, START_SECONDS
        )
        children = Path(f"/proc/{self._process.pid}/task/{self._process.pid}/children")
        self.pid = int(children.read_text())
        self._push_pause()

    def stop(self) -> None:
        """Kill every process in it, and remove its control groups."""
        self._process.send_signal(signal.SIGTERM if not self.pid else signal.SIGKILL)
        self._process.wait()
        groups = Path("/sys/fs/cgroup")
        for pattern in ("", "*/"):  # version 2 has one hierarchy
            for group in groups.glob(f"{pattern}{self.directory.name}-node*"):
                _remove(group)

    @property
    def namespace(self) -> Path:
        """The network namespace of the first node."""
        return Path(f"/proc/{self.pid}/ns/net")

    def logs(self) -> str:
        """Return the ends of the logs of its programs."""
        files = [self.directory / "log", *sorted((self.directory / "logs").glob("*.log"))]
        ends = [
            (file.name, file.read_text(errors="replace").splitlines()[-5:])
            for file in files
            if file.exists()
        ]
        return "\n".join("\n".join([f"== {name}", *lines]) for name, lines in ends)

    def kubectl(self, *arguments: str, stdin: str | None = None, check: bool = True) -> str:
        """Return the output of kubectl, as the cluster's administrator; raises `CommandFailed`."""
        command = [
            *("nsenter", f"--target={self.pid}", "--net", "--mount", "--pid"),
            *(str(self.programs / "kubectl"), f"--kubeconfig={self.directory}/admin.conf"),
            *arguments,
        ]
        result = subprocess.run(command, input=stdin, capture_output=True, text=True)
        if result.returncode and check:
            raise CommandFailed(result.returncode, command, result.stdout, result.stderr)
        return result.stdout

    def get(self, *arguments: str) -> Any:
        """Return the output of `kubectl get` as data."""
        return json.loads(self.kubectl("get", *arguments, "--output=json"))

    def wait_until(self, condition: Callable[[], object], what: str) -> None:
        """Wait until `condition` is true. Raises `AssertionError` after a timeout."""

        def events() -> str:
            return self.kubectl("get", "events", "--all-namespaces")[-4000:]

        self._wait_until(condition, what, events, WAIT_SECONDS)

    def push(self, image: str, name: str = "") -> None:
        """Push an image of podman's store to the registry of the nodes, as `name` or its own."""
        name = name or image.split("/", 1)[1]
        target = f"docker://{REGISTRY}/{name}"
        command = ["nsenter", f"--net={self.namespace}", *PUSH, image, target]
        result = subprocess.run(command, capture_output=True, text=True)
        if result.returncode:
            raise CommandFailed(result.returncode, command, result.stdout, result.stderr)

    def client(self, namespace: str) -> Path:
        """Start a pod in a namespace and return its network namespace, to connect from there."""
        kubectl = partial(self.kubectl, f"--namespace={namespace}")
        self.kubectl("apply", "--filename=-", stdin=NAMESPACE.format(namespace=namespace))
        # Without it a pod is refused.
        self.wait_until(lambda: kubectl("get", "serviceaccount/default", check=False), "an account")
        kubectl("apply", "--filename=-", stdin=CLIENT.format(namespace=namespace, image=PAUSE))
        kubectl("wait", "--for=condition=Ready", f"--timeout={WAIT_SECONDS}s", "pod/client")
        address = self.get("pod", "client", f"--namespace={namespace}")["status"]["podIP"]
        for file in Path(f"/proc/{self.pid}/root/run/netns").iterdir():
            addresses = ["nsenter", f"--net={file}", "ip", "-brief", "address"]
            shown = subprocess.run(addresses, capture_output=True, text=True).stdout
            if f" {address}/" in shown:
                return file
        raise LookupError(f"no network namespace has {address}")

    def processes(self, program: str) -> list[int]:
        """Return the process ids of a program of the cluster, on all of its nodes."""
        pattern = f"^{program} .*{self.directory}"
        result = subprocess.run(["pgrep", "--full", pattern], capture_output=True, text=True)
        return [int(pid) for pid in result.stdout.split()]

    def processes_of(self, pod: dict[str, Any]) -> list[int]:
        """Return the process ids of the containers of a pod."""
        uid = pod["metadata"]["uid"]
        return [
            int(process.name)
            for process in Path("/proc").glob("[0-9]*")
            if f"pod{uid}" in _read(process / "cgroup")
            and not _read(process / "cmdline").startswith("/program")  # the pause image
        ]

    def serve_names(self) -> None:
        """Start the DNS of the cluster."""
        self._start_part("coredns", "dns.yaml")

    @contextmanager
    def metrics(self) -> Iterator[None]:
        """Serve the resource metrics of pods for the block; without them no autoscaler acts."""
        self._start_part("metrics-server", "metrics.yaml")
        try:
            self.wait_until(lambda: "node2" in self.kubectl("top", "nodes", check=False), "metrics")
            yield
        finally:
            manifests = (PARTS / "metrics.yaml").read_text()
            self.kubectl("delete", "--filename=-", stdin=manifests)
            self.kubectl("--namespace=kube-system", "delete", "secret", "metrics-server")

    def _start_part(self, program: str, manifests: str) -> None:
        """Start a Deployment of `kube-system` that has the name of its program."""
        self._push_program(self.programs / program, f"{program}:1")
        kubectl = partial(self.kubectl, "--namespace=kube-system")
        config = f"--from-file=kubeconfig={self.directory}/admin.conf"
        kubectl("create", "secret", "generic", program, config)
        kubectl("apply", "--filename=-", stdin=(PARTS / manifests).read_text())
        kubectl("rollout", "status", f"--timeout={WAIT_SECONDS}s", f"deployment/{program}")

    def _push_pause(self) -> None:
        """Push the pause image."""
        catatonit = shutil.which("catatonit")
        assert catatonit
        self._push_program(Path(catatonit), PAUSE.partition("/")[2], "-P")

    def _push_program(self, program: Path, name: str, *options: str) -> None:
        """Push an image that contains only a program to the registry."""
        image = f"localhost/{uuid.uuid4().hex}"  # other clusters share the store
        with tempfile.NamedTemporaryFile(suffix=".tar") as file:
            with tarfile.open(file.name, "w") as tar:
                tar.add(program, "program")
            start = f"--change=ENTRYPOINT {json.dumps(['/program', *options])}"
            command = [*PODMAN, "import", "--quiet", start, file.name, image]
            subprocess.run(command, check=True, capture_output=True)
        self.push(image, name)
        subprocess.run([*PODMAN, "image", "rm", image], check=True, capture_output=True)

    def _wait_until(
        self,
        condition: Callable[[], object],
        what: str,
        explain: Callable[[], str],
        seconds: float,
    ) -> None:
        def met() -> bool:
            if condition():
                return True
            assert self._process.poll() is None, f"the cluster has ended:\n{self.logs()}"
            return False

        wait_until(met, what, explain, seconds=seconds)


def _read(file: Path) -> str:
    """Return the text of a file of /proc; empty if its process has ended."""
    try:
        return file.read_text(errors="replace")
    except OSError:
        return ""


def _remove(group: Path) -> None:
    """Remove a control group and those in it, once their processes have ended."""
    deadline = time.monotonic() + 120
    for inner in sorted(group.glob("**/"), reverse=True):
        while True:
            try:
                inner.rmdir()
                break
            except FileNotFoundError:  # by a kubelet that is still ending
                break
            except OSError:
                if time.monotonic() > deadline:
                    raise
                time.sleep(0.05)


class Service:
    """A deployment's production overlay on a cluster."""

    def __init__(self, cluster: Kubernetes, deployment: Deployment) -> None:
        self.cluster = cluster
        self.deployment = deployment
        self.name: str = deployment.manifest["metadata"]["name"]
        self.namespace: str = deployment.manifest["metadata"]["namespace"]

    def kubectl(self, *arguments: str, stdin: str | None = None, check: bool = True) -> str:
        """Like the cluster's method, in the namespace of the service."""
        return self.cluster.kubectl(
            f"--namespace={self.namespace}", *arguments, stdin=stdin, check=check
        )

    def install(self) -> None:
        """Push the image, apply the overlay, and wait until it runs."""
        self.cluster.push(self.deployment.container["image"])
        self.apply()
        self.cluster.wait_until(lambda: len(self.pods()) == self.least, "scaled")
        self.wait_for_rollout()

    def apply(self, kubernetes: Path | None = None) -> None:
        """Apply the built-in kinds of the production overlay in that deploy/kubernetes."""
        directory = kubernetes or self.deployment.project.path / "deploy/kubernetes"
        overlay = str(directory / "overlays/production")
        built = self.deployment.project.run("kubectl", "kustomize", overlay).stdout
        manifests = [m for m in yaml.safe_load_all(built) if m["kind"] not in CUSTOM]
        self.kubectl("apply", "--filename=-", stdin=yaml.safe_dump_all(manifests))

    def without_shutdown(self) -> str:
        """Return a patch of the Deployment: no preStop, and uvicorn's own shutdown."""
        container = self.deployment.container
        options = contents.configuration(container["image"])["Cmd"][1:]
        program = UVICORN_WITHOUT_DRAIN.format(package=self.deployment.project.package)
        changed = {
            "name": container["name"],
            "lifecycle": None,
            "command": ["python", "-c", program, *options],
        }
        return json.dumps({"spec": {"template": {"spec": {"containers": [changed]}}}})

    @property
    def least(self) -> int:
        """The minimum number of pods of the autoscaler."""
        return int(self.get("hpa", self.name)["spec"]["minReplicas"])

    @property
    def address(self) -> str:
        """The cluster IP of the Service."""
        return str(self.get("service", self.name)["spec"]["clusterIP"])

    def pods(self) -> list[dict[str, Any]]:
        """All pods, including those that terminate."""
        return list(self.get("pods")["items"])

    def addresses(self) -> list[str]:
        """Return the IPv4 addresses of its pods; the cluster has no policies for IPv6."""
        return [pod["status"]["podIP"] for pod in self.pods()]

    def has_ready(self, number: int) -> bool:
        """Return whether it has exactly `number` pods, all ready."""
        status = self.get("deployment", self.name)["status"]
        return bool(status.get("readyReplicas") == status.get("replicas") == number)

    def names(self) -> set[str]:
        """Return the names of its pods."""
        return {pod["metadata"]["name"] for pod in self.pods()}

    def scale(self, number: int) -> None:
        """Set both bounds of the autoscaler to `number`, and wait for the pods."""
        bounds = json.dumps({"spec": {"minReplicas": number, "maxReplicas": number}})
        self.kubectl("patch", "hpa", self.name, f"--patch={bounds}")
        self.cluster.wait_until(lambda: self.has_ready(number), f"{number} pods")
        self.wait_for_rollout()

    def restart(self) -> None:
        """Restart the Deployment, and wait for the rollout."""
        self.kubectl("rollout", "restart", f"deployment/{self.name}")
        self.wait_for_rollout()

    def wait_for_rollout(self) -> None:
        """Wait until all pods are new and ready, and the old ones deleted."""
        self.kubectl("rollout", "status", f"--timeout={WAIT_SECONDS}s", f"deployment/{self.name}")
        self.cluster.wait_until(lambda: len(self.names()) == self.least, "without the old pods")

    def get(self, *arguments: str) -> Any:
        """Like the cluster's method, in the namespace of the service."""
        return self.cluster.get(f"--namespace={self.namespace}", *arguments)
