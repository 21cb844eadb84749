"""deploy/kubernetes: `deploy`, the bootstrap and `make local`, on a real cluster."""

import json
import os
import re
import shutil
import signal
import subprocess
import time
import uuid
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import yaml

from ..conftest import NAME, Render
from ..harness import golang, images, kubernetes
from ..harness.project import UV, Project
from ..harness.template import render as render_release
from ..kubernetes.test_custom_kinds import CRDS
from ..kubernetes.test_manifests import kustomize

SCRIPT = "deploy/kubernetes/deploy"
STAGING = "deploy/kubernetes/overlays/staging/kustomization.yaml"
PRODUCTION = STAGING.replace("staging", "production")
BOOTSTRAP = "deploy/kubernetes/bootstrap/production/kustomization.yaml"
KINDS = "deployments,services,configmaps,serviceaccounts,ingresses,hpa,pdb,networkpolicies"
MISSING_IMAGE = "registry.example.com/ledger@sha256:" + "0" * 64

BAD_SETTING = ("ENVIRONMENT=staging", "ENVIRONMENT=prod")
PATCH = """patches:
  - target: {{kind: Deployment}}
    patch: |-
      - op: add
        path: {path}
        value: {value}
"""
MISSING_SECRET = PATCH.format(
    path="/spec/template/spec/containers/0/envFrom/-", value="{secretRef: {name: nothing}}"
)
LAXER_POD = PATCH.format(path="/spec/template/spec/hostNetwork", value="true")
TOO_LARGE_POD = PATCH.format(
    path="/spec/template/spec/containers/0/resources/requests/cpu", value="100"
)
IMPATIENT = 5
"""Seconds of patience with a release that fails."""
# A pod that waits for a Secret, and then starts for longer than `LATE_PATIENCE` seconds.
LATE_PATIENCE = 15
LATE_SECRET = """patches:
  - target: {kind: Deployment}
    patch: |-
      - op: add
        path: /spec/template/spec/volumes/-
        value: {name: late, secret: {secretName: late}}
      - op: add
        path: /spec/template/spec/initContainers
        value:
          - name: wait
            image: SLUG
            command: [sleep, "20"]
            securityContext: {allowPrivilegeEscalation: false, capabilities: {drop: [ALL]}}
"""
ALL_COMPONENTS = """components:
  - ../../components/keda
  - ../../components/external-secrets
"""
UNKNOWN_FIELD = PATCH.format(path="/spec/strateggy", value="1")

# Fake `docker` without a daemon, and fake `kind` that pushes to the cluster's registry.
DOCKER = """\
#!/bin/sh
[ "$1" = build ] || exec podman "$@"
shift
exec buildah build {options} "$@"
"""
KIND = """\
#!/bin/sh
[ "$1 $2 $3 $4" = "load docker-image --name here" ] || exit 1
exec {push} "localhost/$5" "docker://{registry}/library/$5"
"""


class Service:
    """A checkout of a service beside a cluster."""

    def __init__(self, project: Project, cluster: Any, image: str) -> None:
        self.project = project
        self.cluster = cluster
        self.image = image
        """By its digest; the cluster can pull it."""
        self.slug = project.answers["project_slug"]
        self.namespace = f"{self.slug}-staging"
        self.kubeconfig = Path(cluster.directory, "admin.conf")

    def variables(self, kubeconfig: Path | None = None) -> dict[str, str]:
        path = os.pathsep.join([str(self.cluster.programs), os.environ["PATH"]])
        config = str(kubeconfig or self.kubeconfig)
        return {"PATH": path, "KUBECONFIG": config}

    def run(
        self, *command: str, kubeconfig: Path | None = None, env: Mapping[str, str] | None = None
    ) -> tuple[int, str]:
        """Return the exit status and the output of a command that reaches the cluster."""
        inside = ["nsenter", f"--net={self.cluster.namespace}", *command]
        variables = {**self.variables(kubeconfig), **(env or {})}
        result = self.project.run(*inside, env=variables, check=False)
        return result.returncode, result.stdout

    def deploy(
        self, *arguments: str, kubeconfig: Path | None = None, patience: int = 20
    ) -> tuple[int, str]:
        command = (SCRIPT, *(arguments or ("staging", self.image)))
        return self.run(*command, kubeconfig=kubeconfig, env={"PATIENCE": str(patience)})

    def kubectl(self, *arguments: str, stdin: str | None = None) -> str:
        return str(self.cluster.kubectl(f"--namespace={self.namespace}", *arguments, stdin=stdin))

    def edit(self, old: str, new: str, file: str = STAGING) -> None:
        path = self.project.path / file
        text = path.read_text()
        assert old in text
        path.write_text(text.replace(old, new))

    def append(self, text: str, file: str = STAGING) -> None:
        with (self.project.path / file).open("a") as overlay:
            overlay.write(text)

    def state(self) -> dict[str, Any]:
        """All that a deploy writes, and what was noted down as applied."""
        found = {}
        for each in self.cluster.get(KINDS, f"--namespace={self.namespace}")["items"]:
            metadata = each["metadata"]
            notes = metadata.get("annotations", {})
            notes.pop("deployment.kubernetes.io/revision", None)
            applied = notes.pop("kubectl.kubernetes.io/last-applied-configuration", "null")
            named = f"{each['kind']}/{metadata['name']}"
            found[named] = {
                "labels": metadata.get("labels"),
                "annotations": notes,
                "applied": json.loads(applied),
                **{key: each.get(key) for key in ("spec", "data")},
            }
        return found

    def namespaces(self) -> set[str]:
        return {each["metadata"]["name"] for each in self.cluster.get("namespaces")["items"]}

    def deployment(self) -> Any:
        return self.cluster.get("deployment", self.slug, f"--namespace={self.namespace}")

    def wait_for_autoscaler(self) -> None:
        """Wait until the autoscaler has set its minimum, and these pods are ready."""
        autoscaler = self.cluster.get("hpa", self.slug, f"--namespace={self.namespace}")
        least = autoscaler["spec"]["minReplicas"]
        self.cluster.wait_until(lambda: self.deployment()["spec"]["replicas"] == least, "scaled")
        self.kubectl("rollout", "status", f"deployment/{self.slug}", "--timeout=600s")


def deployer(service: Service, environment: str, directory: Path) -> Path:
    """Apply the bootstrap of an environment; a kubeconfig of the account that may deploy there."""
    bootstrap = kustomize(service.project.path / "deploy/kubernetes/bootstrap" / environment)
    service.cluster.kubectl("apply", "--filename=-", stdin=yaml.safe_dump_all(bootstrap))
    every_namespace_has = {"ServiceAccount/default", "ConfigMap/kube-root-ca.crt"}
    service.cluster.wait_until(lambda: every_namespace_has <= service.state().keys(), "complete")
    token = service.kubectl("create", "token", f"{service.slug}-deploy").strip()
    config = yaml.safe_load(Path(service.cluster.directory, "admin.conf").read_text())
    config["users"][0]["user"] = {"token": token}
    kubeconfig = directory / "kubeconfig"
    kubeconfig.write_text(yaml.safe_dump(config))
    return kubeconfig


@pytest.fixture(scope="module")
def rendered(render: Render) -> Project:
    """A service that a stock cluster takes."""
    return render(
        deployment="kubernetes",
        project_slug=f"ledger-{uuid.uuid4().hex[:8]}",
        request_timeout_seconds=5,
        route="ingress",
        prometheus_operator=False,
    )


@pytest.fixture(scope="module")
def image(rendered: Project, cluster: Any) -> Iterator[str]:
    """Its image in the cluster's registry, by its digest."""
    with published(rendered, cluster) as image:
        yield image


@contextmanager
def published(project: Project, cluster: Any, version: str = "1") -> Iterator[str]:
    """Build the image of a project and push it; its name with the digest."""
    name = project.answers["project_slug"]
    tag = f"registry.example.com/{name}:{version}"
    project.uv("lock", "--quiet")
    images.ensure_bases(project.path / "Dockerfile")
    images.build(project.path, tag)
    cluster.push(tag)
    manifest = f"http://{kubernetes.REGISTRY}/v2/{name}/manifests/{version}"
    accept = "Accept: application/vnd.docker.distribution.manifest.v2+json"
    oci = "Accept: application/vnd.oci.image.manifest.v1+json"
    head = subprocess.run(
        [
            *("nsenter", f"--net={cluster.namespace}", "curl", "--silent", "--head"),
            *("--header", accept, "--header", oci, manifest),
        ],
        check=True,
        capture_output=True,
        text=True,
    ).stdout
    (digest,) = re.findall(r"sha256:[0-9a-f]{64}", head.partition("Docker-Content-Digest")[2])[:1]
    yield f"registry.example.com/{name}@{digest}"
    subprocess.run([*images.PODMAN, "image", "rm", "--force", tag], check=True, capture_output=True)


@pytest.fixture
def checkout(rendered: Project, cluster: Any, image: str, tmp_path: Path) -> Callable[..., Service]:
    """Copies of the service that a test may change."""

    def checkout(name: str = "own") -> Service:
        path = shutil.copytree(rendered.path, tmp_path / name)
        return Service(Project(Path(path)), cluster, image)

    return checkout


@pytest.fixture(scope="module")
def first(rendered: Project, cluster: Any, image: str) -> tuple[Service, str]:
    """The service once it was deployed to staging, and the output of `deploy`."""
    service = Service(rendered, cluster, image)
    status, output = service.deploy()
    assert status == 0, output
    service.wait_for_autoscaler()
    return service, output


@pytest.fixture
def service(first: object, checkout: Callable[..., Service]) -> Service:
    """A checkout of the deployed service."""
    return checkout()


def test_first_deploy_creates_the_namespace_and_serves_the_image(
    first: tuple[Service, str],
) -> None:
    service, output = first
    [container] = service.deployment()["spec"]["template"]["spec"]["containers"]

    assert container["image"] == service.image
    assert f"pods serve in {service.namespace}" in output
    assert list(service.project.path.glob("deploy/kubernetes/release.*")) == []


# ── Refused: a line, and nothing has changed ──────────────────────────────────────────────────


def test_each_missing_kind_prints_one_line(
    render: Render, cluster: Any, image: str, tmp_path: Path
) -> None:
    rendered = render(deployment="kubernetes")
    project = Project(Path(shutil.copytree(rendered.path, tmp_path / "service")))
    service = Service(project, cluster, image)
    service.edit("components:\n", ALL_COMPONENTS)
    before = service.namespaces()

    status, output = service.deploy()

    assert status == 1
    assert re.findall(
        "has no kind (\\w+) .*components/([\\w-]+) out of overlays/staging", output
    ) == [
        ("ExternalSecret", "external-secrets"),
        ("HTTPRoute", "httproute"),
        ("ScaledObject", "keda"),
        ("PodMonitor", "podmonitor"),
    ]
    assert output.count("\n") == 4
    assert service.namespaces() == before


@pytest.mark.parametrize(
    ("addition", "line"),
    [
        (LAXER_POD, 'a new pod would be refused: pods "[^ ]+" is forbidden: violates PodSecurity'),
        (UNKNOWN_FIELD, 'the API server refuses it: .* unknown field "spec.strateggy"'),
        ("resources:\n  - nothing.yaml\n", "overlays/staging can't be built: "),
    ],
    ids=["laxer pod", "unknown field", "missing file"],
)
def test_object_refused_by_the_api_server_prints_one_line(
    service: Service, addition: str, line: str
) -> None:
    before = service.state()
    service.append(addition)

    status, output = service.deploy()

    assert status == 1
    assert re.match(f"deploy: {line}", output), output
    assert output.count("\n") == 1
    assert service.state() == before


def test_quota_too_small_for_a_pod_prints_one_line(service: Service) -> None:
    before = service.state()
    service.kubectl("create", "quota", "small", "--hard=pods=2")
    used = ("get", "quota", "small", "--output=jsonpath={.status.used.pods}")
    service.cluster.wait_until(lambda: service.kubectl(*used) == "2", "counted")

    status, output = service.deploy()
    service.kubectl("delete", "quota", "small")

    assert status == 1
    assert "exceeded quota: small" in output
    assert output.count("\n") == 1
    assert service.state() == before


def test_deploy_to_a_terminating_namespace_prints_one_line(service: Service) -> None:
    name = f"{service.slug}-production"
    service.cluster.kubectl("create", "namespace", name)
    held = f"--namespace={name}"
    service.cluster.kubectl(held, "create", "configmap", "held")
    hold = ("patch", "configmap", "held", "--patch")
    service.cluster.kubectl(held, *hold, '{"metadata":{"finalizers":["example.com/held"]}}')
    service.cluster.kubectl("delete", "namespace", name, "--wait=false")

    status, output = service.deploy("production", service.image)
    service.cluster.kubectl(held, *hold, '{"metadata":{"finalizers":null}}')
    service.cluster.kubectl("wait", "--for=delete", f"namespace/{name}", "--timeout=600s")

    assert status == 1
    assert output == f"deploy: the namespace {name} is being deleted: try again after that\n"


@pytest.mark.parametrize(
    ("versions", "line"),
    [
        ("OLDEST=98 NEWEST=99", "is too old: use 1.98 to 1.99"),
        ("OLDEST=1 NEWEST=2", "is newer than the tested versions: update from the template"),
    ],
)
def test_unsupported_kubernetes_version_is_refused_with_one_line(
    service: Service, versions: str, line: str
) -> None:
    service.edit("OLDEST=30 NEWEST=37", versions, SCRIPT)

    status, output = service.deploy()

    assert status == 1
    assert line in output
    assert output.count("\n") == 1


def test_account_without_any_right_prints_one_line(service: Service, tmp_path: Path) -> None:
    config = yaml.safe_load(service.kubeconfig.read_text())
    config["users"][0]["user"] = {"username": "nobody", "password": "none"}
    kubeconfig = tmp_path / "kubeconfig"
    kubeconfig.write_text(yaml.safe_dump(config))

    status, output = service.deploy(kubeconfig=kubeconfig)

    assert status == 1
    assert re.match("deploy: kubectl api-resources lists no kind: .* credentials", output), output
    assert output.count("\n") == 1


def test_paused_deployment_prints_one_line(service: Service) -> None:
    service.kubectl("rollout", "pause", f"deployment/{service.slug}")

    status, output = service.deploy()
    service.kubectl("rollout", "resume", f"deployment/{service.slug}")

    assert status == 1
    assert re.match(
        "deploy: the Deployment is paused: kubectl --namespace=\\S+ rollout resume", output
    )
    assert output.count("\n") == 1


def test_make_local_refuses_a_remote_context_by_name(service: Service) -> None:
    for command in (["deploy/kubernetes/local", "up"], ["deploy/kubernetes/local", "down"]):
        status, output = service.run(*command)
        assert status == 1
        assert re.match(
            "local: the context '\\S+' is not kind, k3d, minikube or Docker Desktop", output
        )
    status, output = service.deploy("local", "ledger:0123abc")
    assert status == 1
    assert re.match("deploy: the context '\\S+' is not kind", output)


# ── Taken back ────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    ("change", "because"),
    [
        ("image", "ErrImagePull|ImagePullBackOff"),
        ("setting", "Last line of its log: ENVIRONMENT: Input should be 'development', 'staging'"),
        ("secret", 'secret "nothing" not found'),
    ],
)
def test_failed_release_is_rolled_back_with_its_reason(
    service: Service, change: str, because: str
) -> None:
    before = service.state()
    if change == "setting":
        service.edit(*BAD_SETTING)
    if change == "secret":
        service.append(MISSING_SECRET)

    image = MISSING_IMAGE if change == "image" else service.image
    status, output = service.deploy("staging", image, patience=IMPATIENT)

    [line] = re.findall("^deploy: the release doesn't serve. .*$", output, re.MULTILINE)
    assert status == 1
    assert re.search(because, line)
    assert output.endswith("deploy: rolling back\n")
    assert service.state() == before


def test_keep_leaves_a_failed_release_in_place(service: Service) -> None:
    before = service.state()
    service.edit(*BAD_SETTING)

    status, output = service.deploy("--keep", "staging", service.image, patience=IMPATIENT)
    kept = service.state()
    service.edit(*reversed(BAD_SETTING))
    again, _ = service.deploy()

    assert (status, again) == (1, 0)
    assert kept != before
    assert "left in place: kubectl" in output
    after = service.state()
    [config] = after.keys() - before.keys()  # its ReplicaSet is still there, to undo to
    del after[config]
    assert after == before, "the next release takes all else away"


def test_failed_first_release_leaves_no_namespace(checkout: Callable[..., Service]) -> None:
    service = checkout()
    before = service.namespaces()

    status, output = service.deploy("production", MISSING_IMAGE, patience=IMPATIENT)

    assert status == 1, output
    assert output.endswith("deploy: rolling back\n")
    service.cluster.wait_until(lambda: service.namespaces() == before, "deleted")


def start_deploy(
    service: Service, line: str, image: str = "", **env: str
) -> tuple[subprocess.Popen[str], str]:
    """Start `deploy`; return it and its output once it has printed a line with that text."""
    started = subprocess.Popen(
        [
            *("nsenter", f"--net={service.cluster.namespace}"),
            *(SCRIPT, "staging", image or service.image),
        ],
        cwd=service.project.path,
        env=service.project.variables({**service.variables(), **env}),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    )
    assert started.stdout
    output = ""
    for printed in started.stdout:
        output += printed
        if line in printed:
            break
    return started, output


def interrupt_deploy(service: Service, line: str, told: signal.Signals) -> str:
    """Send a signal to `deploy` once it has printed a line with that text; return all output."""
    started, output = start_deploy(service, line)
    os.killpg(started.pid, told)
    rest, _ = started.communicate()

    assert started.returncode == 128 + told, output + rest
    return output + rest


@pytest.mark.parametrize("told", [signal.SIGINT, signal.SIGTERM])
def test_interrupted_deploy_is_rolled_back(service: Service, told: signal.Signals) -> None:
    before = service.state()
    service.edit("ENVIRONMENT=staging", "ENVIRONMENT=staging\n      - LOG_LEVEL=DEBUG")

    output = interrupt_deploy(service, "deployment.apps/", told)

    assert output.endswith("deploy: rolling back\n")
    assert service.state() == before


def test_deploy_whose_output_is_closed_is_rolled_back(service: Service) -> None:
    before = service.state()
    service.edit("ENVIRONMENT=staging", "ENVIRONMENT=staging\n      - LOG_LEVEL=DEBUG")

    started, _ = start_deploy(service, "deployment.apps/")
    assert started.stdout
    started.stdout.close()

    assert started.wait() != 0
    assert service.state() == before


def test_rollback_waits_for_an_api_server_that_is_away(service: Service) -> None:
    before = service.state()
    service.edit("ENVIRONMENT=staging", "ENVIRONMENT=staging\n      - LOG_LEVEL=DEBUG")

    started, output = start_deploy(service, "deployment.apps/", PATIENCE="60")
    [server] = service.cluster.processes("kube-apiserver")
    os.kill(server, signal.SIGSTOP)
    try:
        os.killpg(started.pid, signal.SIGTERM)
        time.sleep(30)  # longer than the time that a request of `deploy` may take
    finally:
        os.kill(server, signal.SIGCONT)
    rest, _ = started.communicate()

    assert started.returncode == 128 + signal.SIGTERM
    assert rest.endswith("deploy: rolling back\n"), output + rest
    assert service.state() == before


def test_deploy_that_another_deploy_overtakes_fails_without_a_rollback(service: Service) -> None:
    before = service.state()
    service.edit("ENVIRONMENT=staging", "ENVIRONMENT=staging\n      - LOG_LEVEL=DEBUG")
    overtaken, output = start_deploy(service, "deployment.apps/", MISSING_IMAGE, PATIENCE="300")
    service.edit("ENVIRONMENT=staging\n      - LOG_LEVEL=DEBUG", "ENVIRONMENT=staging")

    status, _ = service.deploy()
    rest, _ = overtaken.communicate()

    assert (status, overtaken.returncode) == (0, 1)
    assert f"deploy: another deploy has meanwhile set the image {service.image}" in rest, output
    assert "rolling back" not in rest
    after = service.state()
    for name in after.keys() - before.keys():  # its ConfigMap, whose ReplicaSet is still there
        del after[name]
    assert after == before


def test_pending_pod_is_reported_and_waited_for(service: Service) -> None:
    before = service.state()
    service.append(TOO_LARGE_POD)

    output = interrupt_deploy(service, "Insufficient cpu", signal.SIGTERM)

    assert re.search(r"^deploy: \d of \d pods serve, \d are new\. .*Insufficient cpu", output, re.M)
    assert service.state() == before


def test_slow_start_after_a_missing_secret_was_created_is_waited_for(service: Service) -> None:
    before = service.state()
    late = LATE_SECRET.replace("SLUG", service.slug)
    service.append(late)

    patience = str(LATE_PATIENCE)
    started, output = start_deploy(service, 'secret "late" not found', PATIENCE=patience)
    service.kubectl("create", "secret", "generic", "late")
    rest, _ = started.communicate()
    service.edit(late, "")
    restored, _ = service.deploy()
    service.kubectl("delete", "secret", "late")

    assert started.returncode == 0, output + rest
    assert restored == 0
    assert service.state() == before


# ── After a release ───────────────────────────────────────────────────────────────────────────


def test_deploy_reverts_rollout_undo_and_manual_edits(service: Service) -> None:
    before = service.state()
    name = f"deployment/{service.slug}"
    service.kubectl("set", "env", name, "EDITED=1")
    service.kubectl("rollout", "status", name, "--timeout=600s")
    service.kubectl("set", "image", name, "app=registry.example.com/another:1")

    def observed() -> bool:
        found = service.deployment()
        return bool(found["status"]["observedGeneration"] == found["metadata"]["generation"])

    service.cluster.wait_until(observed, "observed")  # `undo` goes back from the newest ReplicaSet
    service.kubectl("rollout", "undo", name)
    edited = service.deployment()["spec"]["template"]["spec"]["containers"][0]["env"]
    assert {"name": "EDITED", "value": "1"} in edited

    status, output = service.deploy()

    assert status == 0, output
    assert service.state() == before


def test_old_configuration_is_deleted_and_leftovers_are_listed_then_pruned(
    service: Service,
) -> None:
    before = service.state()
    labelled = f"app.kubernetes.io/name={service.slug}"
    for name in ("2222222222", "own"):
        service.kubectl("create", "configmap", f"{service.slug}-{name}")
        service.kubectl("label", "configmap", f"{service.slug}-{name}", labelled)
    owner = service.deployment()
    owned = {
        "apiVersion": "v1",
        "kind": "ServiceAccount",
        "metadata": {
            "name": f"{service.slug}-owned",
            "labels": {"app.kubernetes.io/name": service.slug},
            "ownerReferences": [
                {
                    "apiVersion": owner["apiVersion"],
                    "kind": owner["kind"],
                    "name": owner["metadata"]["name"],
                    "uid": owner["metadata"]["uid"],
                }
            ],
        },
    }
    service.kubectl("create", "--filename=-", stdin=json.dumps(owned))
    service.edit("  - ../../components/ingress\n", "")
    route = f"ingress.networking.k8s.io/{service.slug}"

    status, output = service.deploy()
    left = service.state()
    pruned, _ = service.deploy("--prune", "staging", service.image)
    after = service.state()
    service.kubectl("delete", "configmap", f"{service.slug}-own")
    service.kubectl("delete", "serviceaccount", f"{service.slug}-owned")
    service.edit("components:\n", "components:\n  - ../../components/ingress\n")
    again, _ = service.deploy()

    assert (status, pruned, again) == (0, 0, 0)
    assert f"deploy: overlays/staging no longer has {route}: --prune deletes it\n" in output
    assert f"ConfigMap/{service.slug}-2222222222" not in left
    assert f"ConfigMap/{service.slug}-own" in after, "it has no hash of kustomize"
    assert f"{service.slug}-owned" not in output
    assert f"ServiceAccount/{service.slug}-owned" in after, "its owner deletes it"
    assert f"Ingress/{service.slug}" in left
    assert f"Ingress/{service.slug}" not in after
    assert service.state() == before


def test_deploy_over_a_service_applied_by_0_4_1_has_no_conflict(
    checkout: Callable[..., Service], template: Path, tmp_path: Path
) -> None:
    service = checkout()
    answers = {"project_name": NAME, "project_slug": service.slug, "deployment": "kubernetes"}
    render_release(template, tmp_path / "old", answers, "v0.4.1")
    old = [
        each
        for each in kustomize(tmp_path / "old/deploy/kubernetes/overlays/production")
        if each["kind"] not in kubernetes.CUSTOM
    ]
    [applied] = [each for each in old if each["kind"] == "Deployment"]
    applied["spec"]["template"]["spec"]["containers"][0]["image"] = service.image
    service.cluster.kubectl("apply", "--filename=-", stdin=yaml.safe_dump_all(old))
    service.namespace = f"{service.slug}-production"

    status, output = service.deploy("production", service.image)

    strategy = service.deployment()["spec"]["strategy"]["rollingUpdate"]
    service.cluster.kubectl("delete", "namespace", service.namespace)
    assert status == 0, output
    assert strategy == {"maxSurge": "25%", "maxUnavailable": 0}
    assert "onflict" not in output


# ── Rights of the deployer ────────────────────────────────────────────────────────────────────


def test_role_of_the_bootstrap_can_deploy_and_roll_back_only(
    checkout: Callable[..., Service], tmp_path: Path
) -> None:
    service = checkout()
    service.namespace = f"{service.slug}-production"
    kubeconfig = deployer(service, "production", tmp_path)

    elsewhere, refused = service.deploy("staging", service.image, kubeconfig=kubeconfig)
    status, output = service.deploy("production", service.image, kubeconfig=kubeconfig)
    assert status == 0, output
    service.wait_for_autoscaler()
    before = service.state()
    service.edit("ENVIRONMENT=production", "ENVIRONMENT=prod", PRODUCTION)
    failed, back = service.deploy(
        "production", service.image, kubeconfig=kubeconfig, patience=IMPATIENT
    )
    after = service.state()
    rights = {
        right: service.run("kubectl", "auth", "can-i", *right.split(), kubeconfig=kubeconfig)[0]
        == 0
        for right in (
            f"get secrets --namespace={service.namespace}",
            f"delete pods --namespace={service.namespace}",
            f"create pods --subresource=exec --namespace={service.namespace}",
            f"patch roles --namespace={service.namespace}",
            f"create rolebindings --namespace={service.namespace}",
            f"patch resourcequotas --namespace={service.namespace}",
            "create namespaces",
            "list nodes",
            f"get configmaps --namespace={service.slug}-staging",
        )
    }
    service.cluster.kubectl("delete", "namespace", service.namespace)

    assert elsewhere == 1
    assert "is forbidden: User" in refused
    assert "an administrator applies deploy/kubernetes/bootstrap/staging" in refused
    assert refused.count("\n") == 1
    assert "orbidden" not in output
    assert failed == 1
    assert after == before, back
    assert not any(rights.values()), rights


def test_failed_first_release_in_a_bootstrapped_namespace_leaves_only_the_bootstrap(
    checkout: Callable[..., Service], tmp_path: Path
) -> None:
    service = checkout()
    service.namespace = f"{service.slug}-production"
    kubeconfig = deployer(service, "production", tmp_path)
    before = service.state()

    status, output = service.deploy(
        "production", MISSING_IMAGE, kubeconfig=kubeconfig, patience=IMPATIENT
    )
    after = service.state()
    service.cluster.kubectl("delete", "namespace", service.namespace)

    assert status == 1
    assert output.endswith("deploy: rolling back\n"), output
    assert after == before


def test_keda_component_needs_the_rule_of_its_bootstrap(
    checkout: Callable[..., Service], tmp_path: Path
) -> None:
    service = checkout()
    service.namespace = f"{service.slug}-production"
    module, file = CRDS["ScaledObject"]
    crd = golang.downloaded("crds")[module] / file
    service.edit("components:\n", "components:\n  - ../../components/keda\n", PRODUCTION)
    service.cluster.kubectl("create", "--filename=-", stdin=crd.read_text())
    service.cluster.kubectl("wait", "--for=condition=Established", "crd/scaledobjects.keda.sh")
    try:
        kubeconfig = deployer(service, "production", tmp_path)
        refused, why = service.deploy("production", service.image, kubeconfig=kubeconfig)
        service.append("components: [../keda]\n", BOOTSTRAP)
        deployer(service, "production", tmp_path)
        status, output = service.deploy("production", service.image, kubeconfig=kubeconfig)
        scaled = service.kubectl("get", "scaledobjects", "--output=name")
    finally:
        service.cluster.kubectl("delete", "namespace", service.namespace)
        service.cluster.kubectl("delete", "crd", "scaledobjects.keda.sh")

    assert refused == 1
    assert why.endswith("bootstrap/production with components: [../keda]\n"), why
    assert why.count("\n") == 1
    assert status == 0, output
    assert scaled == f"scaledobject.keda.sh/{service.slug}\n"


# ── A cluster of this machine ─────────────────────────────────────────────────────────────────


def on_this_machine(service: Service, directory: Path) -> tuple[Path, dict[str, str]]:
    """Return a kubeconfig that names the cluster kind-…, and variables with Docker and kind."""
    programs = directory / "bin"
    programs.mkdir()
    fakes = {
        "docker": DOCKER.format(options=" ".join(images.BUILD)),
        "kind": KIND.format(push=" ".join(kubernetes.PUSH), registry=kubernetes.REGISTRY),
    }
    for name, text in fakes.items():
        (programs / name).write_text(text)
        (programs / name).chmod(0o755)
    config = yaml.safe_load(Path(service.cluster.directory, "admin.conf").read_text())
    config["contexts"][0]["name"] = config["current-context"] = "kind-here"
    kubeconfig = directory / "kubeconfig"
    kubeconfig.write_text(yaml.safe_dump(config))
    path = [str(programs), service.variables()["PATH"], str(Path(UV).parent)]
    env = {"PATH": os.pathsep.join(path), "PORT": "18080", "UV_OFFLINE": "1"}
    return kubeconfig, env


def test_make_local_serves_and_make_local_down_removes_everything(
    checkout: Callable[..., Service], tmp_path: Path
) -> None:
    service = checkout()
    before = service.namespaces()
    kubeconfig, env = on_this_machine(service, tmp_path)
    (service.project.path / "uv.lock").unlink()

    status, output = service.run("make", "local", kubeconfig=kubeconfig, env=env)
    assert status == 0, output
    [address] = re.findall("^http://.*$", output, re.MULTILINE)
    ready = ("curl", "--silent", "--fail", address.replace("/docs", "/health/ready"))
    answered, _ = service.run(*ready)
    down, _ = service.run("make", "local-down", kubeconfig=kubeconfig, env=env)
    gone, _ = service.run(*ready)

    assert address == "http://127.0.0.1:18080/docs"
    assert f"--namespace={service.slug}-local logs" in output
    assert answered == 0
    assert (down, gone != 0) == (0, True)
    assert service.namespaces() == before
