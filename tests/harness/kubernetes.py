"""A real Kubernetes of two nodes, in namespaces of its own; `tests/cluster/` has its parts.

Needs Linux, root, what `missing_tools` looks for, and the programs that `tests/cluster/build` makes
of Go modules. No traffic leaves the namespaces. All that is left on the machine are the programs.
"""

import json
import os
import shutil
import signal
import subprocess
import tarfile
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import yaml

from . import images
from .images import PODMAN, CommandFailed
from .pods import Deployment
from .template import ROOT

PARTS = ROOT / "tests/cluster"
PLUGINS = Path("/usr/lib/cni")
PAUSE = "registry.example.com/pause:1"
REGISTRY = "192.0.2.10:5000"

START_SECONDS = 120
WAIT_SECONDS = 180

# Kinds that the API server has only with their operator.
CUSTOM = ("HTTPRoute", "PodMonitor", "PrometheusRule")

CLIENT = """
apiVersion: v1
kind: Namespace
metadata: {{name: {namespace}}}
---
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
            missing.append("what tests/cluster/build makes, in some minutes, once")
        elif shutil.which("go", path=f"{os.environ['PATH']}:/usr/local/go/bin") is None:
            missing.append("Go")
    return [*images.missing_tools(), *missing]


def _build(*options: str) -> str:
    """The directory of the programs; without `--where`, once they are there."""
    done = subprocess.run([PARTS / "build", *options], stdout=subprocess.PIPE, text=True)
    if done.returncode:
        raise CommandFailed(done.returncode, "tests/cluster/build", done.stdout, "")
    return done.stdout.strip()


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
    """A started cluster."""

    def __init__(self, directory: Path, programs: Path) -> None:
        self.directory = directory
        self.programs = programs
        self._process: subprocess.Popen[bytes]
        self.pid = 0
        """Its first process, as the machine numbers it."""

    def start(self) -> None:
        """Start it; raises `AssertionError` with the ends of its logs."""
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
        self._wait(lambda: (self.directory / "ready").exists(), START_SECONDS, self.logs)
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

    def kubectl(self, *arguments: str, given: str | None = None, check: bool = True) -> str:
        """Return the output of kubectl, as the cluster's administrator; raises `CommandFailed`."""
        command = [
            *("nsenter", f"--target={self.pid}", "--net", "--mount", "--pid"),
            *(str(self.programs / "kubectl"), f"--kubeconfig={self.directory}/admin.conf"),
            *arguments,
        ]
        done = subprocess.run(command, input=given, capture_output=True, text=True)
        if done.returncode and check:
            raise CommandFailed(done.returncode, command, done.stdout, done.stderr)
        return done.stdout

    def get(self, *arguments: str) -> Any:
        """Return the output of `kubectl get` as data."""
        return json.loads(self.kubectl("get", *arguments, "--output=json"))

    def wait_until(self, condition: Callable[[], object], what: str) -> None:
        """Return once `condition` holds; raises `AssertionError` with the events otherwise."""

        def events() -> str:
            return f"not {what}:\n{self.kubectl('get', 'events', '--all-namespaces')[-4000:]}"

        self._wait(condition, WAIT_SECONDS, events)

    def push(self, image: str) -> None:
        """Push an image of podman's store to the registry of the nodes."""
        name = image.split("/", 1)[1]
        push = (*PODMAN, "push", "--quiet", "--tls-verify=false", image)
        command = ["nsenter", f"--net={self.namespace}", *push, f"docker://{REGISTRY}/{name}"]
        done = subprocess.run(command, capture_output=True, text=True)
        if done.returncode:
            raise CommandFailed(done.returncode, command, done.stdout, done.stderr)

    def client(self, namespace: str) -> Path:
        """Start a pod in a namespace; its network namespace, to speak from there."""
        self.kubectl("apply", "--filename=-", given=CLIENT.format(namespace=namespace, image=PAUSE))
        ready = ("wait", "--for=condition=Ready", "--timeout=120s", "pod/client")
        self.kubectl(*ready, f"--namespace={namespace}")
        address = self.get("pod", "client", f"--namespace={namespace}")["status"]["podIP"]
        for file in Path(f"/proc/{self.pid}/root/run/netns").iterdir():
            addresses = ["nsenter", f"--net={file}", "ip", "-brief", "address"]
            shown = subprocess.run(addresses, capture_output=True, text=True).stdout
            if f" {address}/" in shown:
                return file
        raise LookupError(f"no network namespace has {address}")

    def serve_names(self) -> None:
        """Start the DNS of the cluster."""
        self._push_program(self.programs / "coredns", "coredns:1")
        config = f"--from-file=kubeconfig={self.directory}/admin.conf"
        self.kubectl("--namespace=kube-system", "create", "secret", "generic", "coredns", config)
        self.kubectl("apply", "--filename=-", given=(PARTS / "dns.yaml").read_text())
        rollout = ("rollout", "status", "--timeout=120s", "deployment/coredns")
        self.kubectl("--namespace=kube-system", *rollout)

    def _push_pause(self) -> None:
        """Bring the image that holds a pod's namespaces."""
        catatonit = shutil.which("catatonit")
        assert catatonit
        self._push_program(Path(catatonit), PAUSE.partition("/")[2], "-P")

    def _push_program(self, program: Path, name: str, *options: str) -> None:
        """Bring an image that consists of a program to the registry."""
        image = f"registry.example.com/{name}"
        with tempfile.NamedTemporaryFile(suffix=".tar") as file:
            with tarfile.open(file.name, "w") as tar:
                tar.add(program, "program")
            start = f"--change=ENTRYPOINT {json.dumps(['/program', *options])}"
            command = [*PODMAN, "import", "--quiet", start, file.name, image]
            subprocess.run(command, check=True, capture_output=True)
        self.push(image)
        subprocess.run([*PODMAN, "image", "rm", image], check=True, capture_output=True)

    def _wait(
        self, condition: Callable[[], object], seconds: float, explain: Callable[[], str]
    ) -> None:
        deadline = time.monotonic() + seconds
        while not condition():
            if time.monotonic() > deadline or self._process.poll() is not None:
                raise AssertionError(explain())
            time.sleep(0.2)


def _remove(group: Path) -> None:
    """Remove a control group and those in it, once their processes have ended."""
    deadline = time.monotonic() + 30
    for inner in sorted(group.glob("**/"), reverse=True):
        while True:
            try:
                inner.rmdir()
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

    def kubectl(self, *arguments: str, given: str | None = None, check: bool = True) -> str:
        """As the cluster's, in the namespace of the service."""
        return self.cluster.kubectl(
            f"--namespace={self.namespace}", *arguments, given=given, check=check
        )

    def install(self) -> None:
        """Push the image, apply the built-in kinds, and wait until it runs."""
        self.cluster.push(self.deployment.container["image"])
        built = self.deployment.project.run(
            "kubectl", "kustomize", "deploy/kubernetes/overlays/production"
        ).stdout
        manifests = [each for each in yaml.safe_load_all(built) if each["kind"] not in CUSTOM]
        self.kubectl("apply", "--filename=-", given=yaml.safe_dump_all(manifests))
        self.cluster.wait_until(lambda: len(self.pods()) == self.least, "scaled")
        self.wait_for_rollout()

    @property
    def least(self) -> int:
        """The minimum number of pods of the autoscaler."""
        return int(self._get("hpa", self.name)["spec"]["minReplicas"])

    @property
    def address(self) -> str:
        """The Service's own."""
        return str(self._get("service", self.name)["spec"]["clusterIP"])

    def pods(self) -> list[dict[str, Any]]:
        """All pods, including those that terminate."""
        return list(self._get("pods")["items"])

    def names(self) -> set[str]:
        """Those of its pods."""
        return {pod["metadata"]["name"] for pod in self.pods()}

    def wait_for_rollout(self) -> None:
        """Return once all pods are new and ready, and the old ones gone."""
        self.kubectl("rollout", "status", "--timeout=300s", f"deployment/{self.name}")
        self.cluster.wait_until(lambda: len(self.names()) == self.least, "without the old pods")

    def _get(self, *arguments: str) -> Any:
        return self.cluster.get(f"--namespace={self.namespace}", *arguments)
