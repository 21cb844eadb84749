"""A pod of the production overlay: restricted, serving, drained on SIGTERM.

Its seccomp profile and its missing service-account token are podman's doing, whatever the manifest
says: `test_manifests.py` looks at those.
"""

import gzip
import json
import time
import uuid
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

from ..harness import images, network, pods
from ..harness.pods import Deployment, Pod


@pytest.fixture
def pod(production: Deployment) -> Iterator[Pod]:
    """A pod that is ready."""
    with pods.run(production) as pod:
        yield pod


def read(pod: Pod, *files: str) -> str:
    """Return the contents of the files that exist in the pod."""
    return pod.container.exec(["cat", *files]).stdout


def test_process_has_no_capabilities_and_an_unprivileged_user(
    pod: Pod, production: Deployment
) -> None:
    status = read(pod, "/proc/1/status")

    fields = dict(line.split(":\t", 1) for line in status.splitlines() if ":\t" in line)
    user = str(production.spec["securityContext"]["runAsUser"])
    assert user != "0"
    assert fields["Uid"].split() == fields["Gid"].split() == [user] * 4
    assert {int(fields[f"Cap{kind}"], 16) for kind in ("Inh", "Prm", "Eff", "Bnd", "Amb")} == {0}
    assert fields["NoNewPrivs"] == "1"


def test_pod_with_a_user_id_of_openshift_serves(production: Deployment) -> None:
    """OpenShift sets a user ID of the namespace's range, and group 0."""
    user = 1_000_670_000
    with pods.run(production.with_user(user, group=0)) as pod:
        owner = pod.container.exec(["stat", "--format=%u %g", "/proc/1"]).stdout
        answer = transfer(pod, "/transfers")

    assert owner == f"{user} 0\n"
    assert answer == [-5, 5]


def test_only_tmp_is_writable(pod: Pod) -> None:
    written = pod.container.exec(["touch", "/x", "/app/x", "/home/x", "/tmp/x"])

    assert written.stderr.count("Read-only file system") == 3
    assert "x" in pod.container.exec(["ls", "/tmp"]).stdout.split()


def test_memory_of_the_pod_is_limited(pod: Pod, production: Deployment) -> None:
    cgroup = "/sys/fs/cgroup"
    limit = read(pod, f"{cgroup}/memory.max", f"{cgroup}/memory/memory.limit_in_bytes")

    mebibytes = production.container["resources"]["limits"]["memory"].removesuffix("Mi")
    assert int(limit) == int(mebibytes) * 2**20


def test_pod_passes_the_probes_of_its_manifest(pod: Pod, production: Deployment) -> None:
    for kind in ("startupProbe", "readinessProbe", "livenessProbe"):
        probe = production.container[kind]["httpGet"]
        assert probe["port"] == "http"
        assert pod.get(probe["path"]).status == 200


def test_pod_serves_on_uvloop_and_httptools(pod: Pod) -> None:
    plain = pod.get("/large-response?size_kb=900")
    packed = pod.get("/large-response?size_kb=900", **{"Accept-Encoding": "gzip"})

    assert "content-encoding" not in plain.headers
    assert packed.headers["content-encoding"] == "gzip"
    assert gzip.decompress(packed.body) == plain.body
    assert len(packed.body) < len(plain.body) / 4
    pod.wait_for_log("Runs on event loop uvloop, HTTP parser httptools")


@pytest.mark.parametrize("path", ["/transfers", "/async-transfers"])
def test_pod_writes_to_its_database(pod: Pod, path: str) -> None:
    assert transfer(pod, path) == [-5, 5]


def transfer(pod: Pod, path: str) -> Any:
    """Transfer an amount; return the entries that were written."""
    order = {"reference": path, "source": 1, "target": 2, "amount": 5}

    made = pod.request("POST", path, json.dumps(order), **{"Content-Type": "application/json"})

    assert made.status == 201
    return json.loads(pod.get(f"/entries?reference={path}").body)


def test_static_files_are_in_the_image(pod: Pod) -> None:
    assert json.loads(pod.get("/static/rates.json").body)["EUR"] == 1.0


def test_metrics_are_on_their_own_port(pod: Pod, production: Deployment) -> None:
    ports = {port["name"]: port["containerPort"] for port in production.container["ports"]}
    pod.get("/large-response?size_kb=1")

    metrics = pod.get_from(ports["metrics"], "/metrics")

    counted = b'_count{method="GET",route="/large-response",status="200"} 1.0'
    assert counted in metrics.body
    assert pod.get("/metrics").status == 404
    assert pod.get_from(ports["metrics"], "/health/live").status == 404


def test_download_in_flight_finishes_before_the_pod_exits(pod: Pod, production: Deployment) -> None:
    with (
        ThreadPoolExecutor() as kubelet,
        network.connect(pod.port, pod.namespace, receive_buffer=4096) as download,
    ):
        download.sendall(b"GET /large-response?size_kb=4096 HTTP/1.1\r\nHost: localhost\r\n\r\n")
        received = download.recv(100)  # the rest remains in the server's buffers

        stopped = kubelet.submit(pod.container.stop, production.grace_seconds)
        while (ready := pod.get("/health/ready")).status == 200:
            time.sleep(0.02)
        while (late := pod.get("/health/live")).headers.get("connection") != "close":
            time.sleep(0.02)
        received += b"".join(iter(lambda: download.recv(2**16), b""))

        assert stopped.result() == 0

    assert (ready.status, json.loads(ready.body)) == (503, {"status": "draining"})
    assert late.status == 200
    head, _, body = received.partition(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.1 200 OK")
    assert f"content-length: {len(body)}".encode() in head.lower()
    assert "Application shutdown complete" in pod.container.logs()


def test_plain_example_serves(plain_production: Deployment) -> None:
    with pods.run(plain_production) as pod:
        response = pod.get("/large-response?size_kb=4")
        stopped = pod.container.stop(plain_production.grace_seconds)

    assert (response.status, stopped) == (200, 0)


# ── Secrets, as a kubelet mounts them ─────────────────────────────────────────────────────────


@pytest.fixture
def mount(tmp_path: Path) -> Path:
    """A directory to mount, readable by all users."""
    directory = tmp_path / "secrets"
    directory.mkdir(mode=0o755)
    return directory


def accepts(pod: Pod, token: str) -> bool:
    """Return whether the reference service accepts a token as its API_TOKEN."""
    return pod.get("/accounts/1", Authorization=f"Bearer {token}").status != 401


def test_mounted_secret_is_a_setting_and_not_exposed(production: Deployment, mount: Path) -> None:
    token = uuid.uuid4().hex
    with pods.run(production.with_secrets(mount, API_TOKEN=f"{token}\n")) as pod:
        answers = accepts(pod, token), accepts(pod, "wrong")
        check = [f"{production.project.package}.serving"]
        printed = pod.container.exec(["python", "-m", *check]).stdout
        environment = pod.container.exec(["sh", "-c", "cat /proc/[0-9]*/environ"]).stdout
        output = pod.container.logs()

    assert answers == (True, False)
    assert "API_TOKEN=**********" in printed.splitlines()
    assert "SECRETS_DIR=/run/secrets/settings" in environment
    assert token not in printed + environment + output


def test_changed_secret_reaches_new_pods_and_leaves_running_ones(
    production: Deployment, mount: Path
) -> None:
    """Pods are replaced as by `kubectl rollout restart`, after a change of the files."""
    with ExitStack() as stack:
        pair = [
            stack.enter_context(pods.run(production.with_secrets(mount, API_TOKEN=token)))
            for token in ("old", "new")
        ]
        responses = [(accepts(pod, "old"), accepts(pod, "new")) for pod in pair]

    assert responses == [(True, False), (False, True)]


@pytest.mark.parametrize(
    ("content", "mode", "reason"), [("", 0o644, "is empty"), ("t", 0o600, "Permission denied")]
)
def test_unusable_secret_is_one_line(
    production: Deployment, mount: Path, content: str, mode: int, reason: str
) -> None:
    (mount / "API_TOKEN").write_text(content)
    (mount / "API_TOKEN").chmod(mode)
    options: dict[str, Any] = {
        "env": {"SECRETS_DIR": "/mnt"},
        "extra": [f"--volume={mount}:/mnt:ro"],
    }

    with images.run(production.container["image"], **options) as container:
        ended = container.wait(timeout=120)
        output = container.logs()

    assert (ended, output) == (3, f"API_TOKEN: /mnt/API_TOKEN: {reason}\n")
