"""A Service and the pods of a Deployment, and the steps of a rolling update.

Played here: the controllers, the kubelet and, by nginx, the Service. All traffic stays in network
namespaces of its own: a node's, and those of the pods.
"""

import asyncio
import shutil
import signal
import subprocess
import uuid
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

from . import contents, pods
from .images import CommandFailed
from .load import Load, Tally
from .pods import Deployment, Pod
from .server import Server, launch

PORT = 80

ENDPOINT_LAG = 1.5
"""Seconds until the Service is updated with a change of pods."""

STREAM_MODULE = Path("/usr/lib/nginx/modules/ngx_stream_module.so")

# As kube-proxy: it balances connections, not requests, keeps those that are established, tries
# nothing a second time and drops no pod by itself.
SERVICE = """
load_module {module};
daemon off;
pid {directory}/nginx.pid;
error_log stderr notice;
events {{}}
stream {{
    upstream pods {{
        {endpoints}
    }}
    server {{
        listen 127.0.0.1:{port};
        proxy_pass pods;
        proxy_next_upstream off;
    }}
}}
"""

RATE = 1_500
"""Requests per second of a load: about 20,000 while two pods are replaced."""
PATHS = [*["/health/live", "/large-response?size_kb=4"] * 4, "/large-response?size_kb=64"]

# On one line, because podman can't read back what it makes of several. The options follow.
UVICORN_WITHOUT_THE_DRAIN = (
    "from unittest.mock import patch; from uvicorn.main import main; "
    "patch('{package}.serving.lifecycle.lifespan.drain_before_shutdown').start(); main()"
)

# Addresses for documentation (RFC 5737): not used outside of the namespaces.
NODE, *ADDRESSES = (f"192.0.2.{number}" for number in range(1, 255))
IN_NODE = """
link add {link} type veth peer name eth0 netns {pid}
address add {node} peer {pod} dev {link}
link set {link} up
"""
IN_POD = """
address add {pod} peer {node} dev eth0
link set eth0 up
"""


def missing_tools() -> list[str]:
    """Return what this machine lacks to simulate a cluster."""
    missing = [tool for tool in ("ip", "nginx", "nsenter") if shutil.which(tool) is None]
    if not STREAM_MODULE.exists():
        missing.append("nginx's stream module")
    return [*pods.missing_tools(), *missing]


def without_drain(deployment: Deployment) -> Deployment:
    """Return the same with uvicorn's own shutdown; its image must exist."""
    program = UVICORN_WITHOUT_THE_DRAIN.format(package=deployment.project.package)
    options = contents.configuration(deployment.container["image"])["Cmd"][1:]
    return deployment.with_command("python", "-c", program, *options)


@contextmanager
def run(deployment: Deployment, directory: Path, replicas: int = 2) -> Iterator["Cluster"]:
    """Run a cluster with that many ready pods for the block."""
    name = f"node-{uuid.uuid4().hex[:8]}"
    with ExitStack() as stack:
        _run("ip", "netns", "add", name)
        stack.callback(_run, "ip", "netns", "delete", name)
        _run("ip", "-netns", name, "link", "set", "lo", "up")
        cluster = Cluster(deployment, Path("/run/netns", name), directory, stack)
        for _ in range(replicas):
            cluster.start_pod()
        cluster.start_service()
        yield cluster


class Cluster:
    """A node with the pods of a Deployment; their Service is at `PORT` of the node's loopback."""

    def __init__(
        self, deployment: Deployment, node: Path, directory: Path, stack: ExitStack
    ) -> None:
        self.deployment = deployment
        self.node = node
        """The network namespace of the node."""
        self.pods: dict[str, Pod] = {}
        """Pods by address, without those that are being removed."""
        self._free = iter(ADDRESSES)
        self._configuration = directory / "nginx.conf"
        self._stack = stack
        self._service: Server

    def start_service(self) -> None:
        """Start nginx in the node."""
        self._configure(list(self.pods))
        command = ["nsenter", f"--net={self.node}", "nginx", "-c", str(self._configuration)]
        log = self._configuration.with_suffix(".log")
        nginx = launch(self.deployment.project, command, log, PORT)
        self._service = self._stack.enter_context(nginx)
        self._service.wait_for_log("start worker process ")

    def start_pod(self) -> None:
        """Start another pod and return when the node can reach it."""
        pod = self._stack.enter_context(pods.run(self.deployment))
        address = next(self._free)
        words = {"link": pod.name[-15:], "pid": pod.pid, "node": NODE, "pod": address}
        _ip(self.node, IN_NODE.format_map(words))
        _ip(pod.namespace, IN_POD.format_map(words))
        self.pods[address] = pod

    async def roll_out(self, *, pre_stop: bool = True) -> list[int]:
        """Replace each pod, a new one ready before it goes; returns the old ones' exit codes.

        `pre_stop` says whether the old ones wait as their manifest says before they stop.
        """
        ended = []
        async with asyncio.TaskGroup() as tasks:
            for address in list(self.pods):
                await asyncio.to_thread(self.start_pod)
                old = self.pods.pop(address)
                tasks.create_task(self._publish(list(self.pods)))
                ended.append(tasks.create_task(self._end(old, pre_stop)))
        return [task.result() for task in ended]

    def update_under_load(self, requests: int, *, pre_stop: bool = True) -> tuple[list[int], Tally]:
        """Return the old pods' exit codes, and the outcome of at least that many requests."""

        async def update() -> tuple[list[int], Tally]:
            load = Load(PORT, PATHS, rate=RATE, namespace=self.node)
            await load.answered(1_000)
            codes = await self.roll_out(pre_stop=pre_stop)
            await load.answered(requests)
            return codes, await load.stop()

        return asyncio.run(update())

    async def _publish(self, endpoints: list[str]) -> None:
        """Act as the endpoints controller: the Service is updated with a delay."""
        await asyncio.sleep(ENDPOINT_LAG)
        self._configure(endpoints)
        self._service.process.send_signal(signal.SIGHUP)

    async def _end(self, pod: Pod, pre_stop: bool) -> int:
        """Act as the kubelet: preStop, SIGTERM, and SIGKILL at the end of the grace period."""
        waited = self.deployment.pre_stop_seconds if pre_stop else 0
        await asyncio.sleep(waited)
        return await asyncio.to_thread(pod.container.stop, self.deployment.grace_seconds - waited)

    def _configure(self, endpoints: list[str]) -> None:
        port = self.deployment.port
        servers = [f"server {endpoint}:{port} max_fails=0;" for endpoint in endpoints]
        text = SERVICE.format(
            module=STREAM_MODULE,
            directory=self._configuration.parent,
            endpoints=" ".join(servers),
            port=PORT,
        )
        self._configuration.write_text(text)


def _ip(namespace: Path, batch: str) -> None:
    _run("nsenter", f"--net={namespace}", "ip", "-batch", "-", given=batch)


def _run(*command: str, given: str = "") -> None:
    done = subprocess.run(command, input=given, capture_output=True, text=True)
    if done.returncode:
        raise CommandFailed(done.returncode, command, done.stdout, done.stderr)
