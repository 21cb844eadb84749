"""deploy/kubernetes: `deploy`, the bootstrap and `make local`, on a real cluster."""

import json
import os
import re
import shutil
import signal
import subprocess
import uuid
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import yaml

from ..conftest import NAME, Render
from ..harness import images, kubernetes
from ..harness.project import UV, Project
from ..harness.template import render as render_release
from ..kubernetes.test_manifests import kustomize

SCRIPT = "deploy/kubernetes/deploy"
STAGING = "deploy/kubernetes/overlays/staging/kustomization.yaml"
KINDS = "deployments,services,configmaps,serviceaccounts,ingresses,hpa,pdb,networkpolicies"
MISSING_IMAGE = "registry.example.com/ledger@sha256:" + "0" * 64
CUSTOM = ("HTTPRoute", "PodMonitor", "PrometheusRule")

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
UNKNOWN_FIELD = PATCH.format(path="/spec/strateggy", value="1")

# Docker without its daemon, and kind for nodes that pull from the cluster's registry.
DOCKER = """\
#!/bin/sh
[ "$1" = build ] || exec podman "$@"
shift
exec buildah build {options} "$@"
"""
KIND = """\
#!/bin/sh
[ "$1 $2 $3 $4" = "load docker-image --name here" ] || exit 1
exec podman push --quiet --tls-verify=false "localhost/$5" "{registry}/library/$5"
"""


@pytest.fixture(scope="module")
def cluster() -> Iterator[Any]:
    """A cluster of built-in kinds only."""
    if missing := kubernetes.missing_tools():
        pytest.skip(f"no cluster without {', '.join(missing)}")
    with kubernetes.run() as cluster:
        yield cluster


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
        return {"PATH": path, "KUBECONFIG": config, "PATIENCE": "10"}

    def run(
        self, *command: str, kubeconfig: Path | None = None, env: Mapping[str, str] | None = None
    ) -> tuple[int, str]:
        """The exit status and the output of a command that reaches the cluster."""
        inside = ["nsenter", f"--net={self.cluster.namespace}", *command]
        variables = {**self.variables(kubeconfig), **(env or {})}
        done = self.project.run(*inside, env=variables, check=False)
        return done.returncode, done.stdout

    def deploy(self, *arguments: str, kubeconfig: Path | None = None) -> tuple[int, str]:
        return self.run(SCRIPT, *(arguments or ("staging", self.image)), kubeconfig=kubeconfig)

    def kubectl(self, *arguments: str, given: str | None = None) -> str:
        return str(self.cluster.kubectl(f"--namespace={self.namespace}", *arguments, given=given))

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


def deployer(service: Service, environment: str, directory: Path) -> Path:
    """Apply the bootstrap of an environment; a kubeconfig of the account that may deploy there."""
    bootstrap = kustomize(service.project.path / "deploy/kubernetes/bootstrap" / environment)
    service.cluster.kubectl("apply", "--filename=-", given=yaml.safe_dump_all(bootstrap))
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
    """The service once it was deployed to staging, and what `deploy` said."""
    service = Service(rendered, cluster, image)
    status, said = service.deploy()
    assert status == 0, said
    cluster.wait_until(lambda: service.deployment()["spec"]["replicas"] == 2, "two pods")
    service.kubectl("rollout", "status", f"deployment/{service.slug}", "--timeout=120s")
    return service, said


@pytest.fixture
def service(first: object, checkout: Callable[..., Service]) -> Service:
    """A checkout of what is deployed."""
    return checkout()


def test_a_first_deploy_makes_the_namespace_and_serves_the_image(
    first: tuple[Service, str],
) -> None:
    service, said = first
    [container] = service.deployment()["spec"]["template"]["spec"]["containers"]

    assert container["image"] == service.image
    assert f"pods of it serve in {service.namespace}" in said
    assert list(service.project.path.glob("deploy/kubernetes/release.*")) == []


# ── Refused: a line, and nothing has changed ──────────────────────────────────────────────────


def test_kinds_that_the_cluster_lacks_are_a_line_each(
    render: Render, cluster: Any, image: str
) -> None:
    project = render(deployment="kubernetes")
    service = Service(project, cluster, image)
    before = service.namespaces()

    status, said = service.deploy()

    assert status == 1
    assert re.findall("has no kind (\\w+) .*components/(\\w+) out of overlays/staging", said) == [
        ("HTTPRoute", "httproute"),
        ("PodMonitor", "podmonitor"),
    ]
    assert said.count("\n") == 2
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
def test_what_the_api_server_refuses_is_a_line(service: Service, addition: str, line: str) -> None:
    before = service.state()
    service.append(addition)

    status, said = service.deploy()

    assert status == 1
    assert re.match(f"deploy: {line}", said), said
    assert said.count("\n") == 1
    assert service.state() == before


def test_a_quota_without_room_for_a_pod_is_a_line(service: Service) -> None:
    before = service.state()
    service.kubectl("create", "quota", "small", "--hard=pods=2")
    used = ("get", "quota", "small", "--output=jsonpath={.status.used.pods}")
    service.cluster.wait_until(lambda: service.kubectl(*used) == "2", "counted")

    status, said = service.deploy()
    service.kubectl("delete", "quota", "small")

    assert status == 1
    assert "exceeded quota: small" in said
    assert said.count("\n") == 1
    assert service.state() == before


def test_a_namespace_that_is_being_deleted_is_a_line(service: Service) -> None:
    name = f"{service.slug}-production"
    service.cluster.kubectl("create", "namespace", name)
    held = f"--namespace={name}"
    service.cluster.kubectl(held, "create", "configmap", "held")
    hold = ("patch", "configmap", "held", "--patch")
    service.cluster.kubectl(held, *hold, '{"metadata":{"finalizers":["example.com/held"]}}')
    service.cluster.kubectl("delete", "namespace", name, "--wait=false")

    status, said = service.deploy("production", service.image)
    service.cluster.kubectl(held, *hold, '{"metadata":{"finalizers":null}}')
    service.cluster.kubectl("wait", "--for=delete", f"namespace/{name}", "--timeout=120s")

    assert status == 1
    assert said == f"deploy: the namespace {name} is being deleted: try again when it is gone\n"


@pytest.mark.parametrize(
    ("versions", "line"),
    [
        ("OLDEST=98 NEWEST=99", "is too old: take 1.98 to 1.99"),
        ("OLDEST=1 NEWEST=2", "is newer than what was tested: update from the template"),
    ],
)
def test_a_cluster_of_another_version_is_a_line(service: Service, versions: str, line: str) -> None:
    service.edit("OLDEST=30 NEWEST=37", versions, SCRIPT)

    status, said = service.deploy()

    assert status == 1
    assert line in said
    assert said.count("\n") == 1


def test_a_context_that_is_not_local_is_refused_by_its_name(service: Service) -> None:
    for command in (["deploy/kubernetes/local", "up"], ["deploy/kubernetes/local", "down"]):
        status, said = service.run(*command)
        assert status == 1
        assert re.match(
            "local: the context '\\S+' is not kind, k3d, minikube or Docker Desktop", said
        )
    status, said = service.deploy("local", "ledger:0123abc")
    assert status == 1
    assert re.match("deploy: the context '\\S+' is not kind", said)


# ── Taken back ────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    ("change", "because"),
    [
        ("image", "ErrImagePull|ImagePullBackOff"),
        ("setting", "Its last words: ENVIRONMENT: Input should be 'development', 'staging' or"),
        ("secret", 'secret "nothing" not found'),
    ],
)
def test_a_release_that_fails_is_taken_back_with_its_reason(
    service: Service, change: str, because: str
) -> None:
    before = service.state()
    if change == "setting":
        service.edit(*BAD_SETTING)
    if change == "secret":
        service.append(MISSING_SECRET)

    status, said = service.deploy("staging", MISSING_IMAGE if change == "image" else service.image)

    [line] = re.findall("^deploy: it doesn't serve. .*$", said, re.MULTILINE)
    assert status == 1
    assert re.search(because, line)
    assert said.endswith("deploy: taking it back\n")
    assert service.state() == before


def test_keep_leaves_a_failed_release(service: Service) -> None:
    before = service.state()
    service.edit(*BAD_SETTING)

    status, said = service.deploy("--keep", "staging", service.image)
    kept = service.state()
    service.edit(*reversed(BAD_SETTING))
    again, _ = service.deploy()

    assert (status, again) == (1, 0)
    assert kept != before
    assert "left as it is: kubectl" in said
    after = service.state()
    [config] = after.keys() - before.keys()  # its ReplicaSet is still there, to undo to
    del after[config]
    assert after == before, "the next release takes all else away"


def test_a_first_release_that_fails_leaves_no_namespace(checkout: Callable[..., Service]) -> None:
    service = checkout()
    before = service.namespaces()

    status, said = service.deploy("production", MISSING_IMAGE)

    assert status == 1, said
    assert said.endswith("deploy: taking it back\n")
    service.cluster.wait_until(lambda: service.namespaces() == before, "deleted")


@pytest.mark.parametrize("told", [signal.SIGINT, signal.SIGTERM])
def test_a_deploy_that_is_interrupted_is_taken_back(service: Service, told: signal.Signals) -> None:
    before = service.state()
    service.edit("ENVIRONMENT=staging", "ENVIRONMENT=staging\n      - LOG_LEVEL=DEBUG")
    started = subprocess.Popen(
        ["nsenter", f"--net={service.cluster.namespace}", SCRIPT, "staging", service.image],
        cwd=service.project.path,
        env=service.project.variables(service.variables()),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    )
    assert started.stdout
    for line in started.stdout:
        if line.startswith("deployment.apps/"):
            break

    os.killpg(started.pid, told)
    said, _ = started.communicate()

    assert started.returncode == 128 + told
    assert said.endswith("deploy: taking it back\n")
    assert service.state() == before


# ── What comes after ──────────────────────────────────────────────────────────────────────────


def test_an_undo_and_edits_by_hand_are_gone_with_the_next_deploy(service: Service) -> None:
    before = service.state()
    name = f"deployment/{service.slug}"
    service.kubectl("set", "env", name, "EDITED=1")
    service.kubectl("rollout", "status", name, "--timeout=120s")
    service.kubectl("set", "image", name, "app=registry.example.com/another:1")
    service.kubectl("rollout", "undo", name)
    edited = service.deployment()["spec"]["template"]["spec"]["containers"][0]["env"]
    assert {"name": "EDITED", "value": "1"} in edited

    status, said = service.deploy()

    assert status == 0, said
    assert service.state() == before


def test_old_configuration_goes_and_what_the_overlay_lost_is_named_then_pruned(
    service: Service,
) -> None:
    before = service.state()
    labelled = f"app.kubernetes.io/name={service.slug}"
    for name in ("2222222222", "own"):
        service.kubectl("create", "configmap", f"{service.slug}-{name}")
        service.kubectl("label", "configmap", f"{service.slug}-{name}", labelled)
    service.edit("  - ../../components/ingress\n", "")
    route = f"ingress.networking.k8s.io/{service.slug}"

    status, said = service.deploy()
    left = service.state()
    pruned, _ = service.deploy("--prune", "staging", service.image)
    after = service.state()
    service.kubectl("delete", "configmap", f"{service.slug}-own")
    service.edit("components:\n", "components:\n  - ../../components/ingress\n")
    again, _ = service.deploy()

    assert (status, pruned, again) == (0, 0, 0)
    assert f"deploy: overlays/staging no longer has {route}: --prune deletes it\n" in said
    assert f"ConfigMap/{service.slug}-2222222222" not in left
    assert f"ConfigMap/{service.slug}-own" in after, "it has no hash of kustomize"
    assert f"Ingress/{service.slug}" in left
    assert f"Ingress/{service.slug}" not in after
    assert service.state() == before


def test_a_service_that_release_0_4_1_applied_moves_without_a_conflict(
    checkout: Callable[..., Service], template: Path, tmp_path: Path
) -> None:
    service = checkout()
    answers = {"project_name": NAME, "project_slug": service.slug, "deployment": "kubernetes"}
    render_release(template, tmp_path / "old", answers, "v0.4.1")
    old = [
        each
        for each in kustomize(tmp_path / "old/deploy/kubernetes/overlays/production")
        if each["kind"] not in CUSTOM
    ]
    [applied] = [each for each in old if each["kind"] == "Deployment"]
    applied["spec"]["template"]["spec"]["containers"][0]["image"] = service.image
    service.cluster.kubectl("apply", "--filename=-", given=yaml.safe_dump_all(old))
    service.namespace = f"{service.slug}-production"

    status, said = service.deploy("production", service.image)

    strategy = service.deployment()["spec"]["strategy"]["rollingUpdate"]
    service.cluster.kubectl("delete", "namespace", service.namespace)
    assert status == 0, said
    assert strategy == {"maxSurge": "25%", "maxUnavailable": 0}
    assert "onflict" not in said


# ── Who may deploy ────────────────────────────────────────────────────────────────────────────


def test_the_role_of_the_bootstrap_deploys_takes_back_and_does_no_more(
    checkout: Callable[..., Service], tmp_path: Path
) -> None:
    service = checkout()
    service.namespace = f"{service.slug}-production"
    overlay = STAGING.replace("staging", "production")
    kubeconfig = deployer(service, "production", tmp_path)

    elsewhere, refused = service.deploy("staging", service.image, kubeconfig=kubeconfig)
    status, said = service.deploy("production", service.image, kubeconfig=kubeconfig)
    before = service.state()
    service.edit("ENVIRONMENT=production", "ENVIRONMENT=prod", overlay)
    failed, back = service.deploy("production", service.image, kubeconfig=kubeconfig)
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
    assert status == 0, said
    assert "orbidden" not in said
    assert failed == 1
    assert after == before, back
    assert not any(rights.values()), rights


# ── A cluster of this machine ─────────────────────────────────────────────────────────────────


def on_this_machine(service: Service, directory: Path) -> tuple[Path, dict[str, str]]:
    """A kubeconfig of the cluster as a kind cluster, and variables with Docker and kind for it."""
    programs = directory / "bin"
    programs.mkdir()
    stand_ins = {
        "docker": DOCKER.format(options=" ".join(images.BUILD)),
        "kind": KIND.format(registry=kubernetes.REGISTRY),
    }
    for name, text in stand_ins.items():
        (programs / name).write_text(text)
        (programs / name).chmod(0o755)
    config = yaml.safe_load(Path(service.cluster.directory, "admin.conf").read_text())
    config["contexts"][0]["name"] = config["current-context"] = "kind-here"
    kubeconfig = directory / "kubeconfig"
    kubeconfig.write_text(yaml.safe_dump(config))
    path = [str(programs), service.variables()["PATH"], str(Path(UV).parent)]
    env = {"PATH": os.pathsep.join(path), "PORT": "18080", "UV_OFFLINE": "1"}
    return kubeconfig, env


def test_make_local_serves_and_make_local_down_leaves_nothing(
    checkout: Callable[..., Service], tmp_path: Path
) -> None:
    service = checkout()
    before = service.namespaces()
    kubeconfig, env = on_this_machine(service, tmp_path)
    (service.project.path / "uv.lock").unlink()

    status, said = service.run("make", "local", kubeconfig=kubeconfig, env=env)
    assert status == 0, said
    *_, address, logs = said.splitlines()
    ready = ("curl", "--silent", "--fail", address.replace("/docs", "/health/ready"))
    answered, _ = service.run(*ready)
    down, _ = service.run("make", "local-down", kubeconfig=kubeconfig, env=env)
    gone, _ = service.run(*ready)

    assert address == "http://127.0.0.1:18080/docs"
    assert f"--namespace={service.slug}-local" in logs
    assert answered == 0
    assert (down, gone != 0) == (0, True)
    assert service.namespaces() == before
