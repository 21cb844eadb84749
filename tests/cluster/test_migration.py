"""A rolling update on a real cluster whose migration Job changes the schema under load."""

import asyncio
import re
import shutil
import signal
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest
import yaml

from ..conftest import Render
from ..harness import expand, images
from ..harness.load import Load, Tally
from ..harness.project import Project
from ..kubernetes.test_manifests import kustomize
from .test_deploy import (
    IMPATIENT,
    MISSING_IMAGE,
    Service,
    deployer,
    on_this_machine,
    published,
    start_deploy,
)

POSTGRESQL = "docker.io/library/postgres:18"
ENVIRONMENT = "deploy/kubernetes/overlays/staging/environment/kustomization.yaml"
PODS = "198.51.100.0/24"
"""The network of the cluster's pods, as CIDR."""
OTHER_IMAGE = "registry.example.com/other:1"
REQUESTS = 20_000
RATE = 400
SECONDS = 1800


@pytest.fixture(scope="module")
def service(
    render: Render, cluster: Any, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Service]:
    """The first version in staging, with the deployer's role and a database."""
    images.ensure([POSTGRESQL])
    cluster.push(POSTGRESQL)
    directory = tmp_path_factory.mktemp("database")
    rendered = render(
        deployment="kubernetes",
        database="postgresql",
        request_timeout_seconds=5,
        route="ingress",
        prometheus_operator=False,
    )
    project = Project(Path(shutil.copytree(rendered.path, directory / "service")))
    expand.write_routes(project)
    with published(project, cluster) as image:
        service = Service(project, cluster, image)
        service.edit("value: 192.0.2.1/32", f"value: {PODS}", ENVIRONMENT)
        service.kubeconfig = deployer(service, "staging", directory)
        start_database(service)
        status, output = service.deploy()
        assert status == 0, output
        service.wait_for_autoscaler()
        sql(service, "INSERT INTO notes (text) VALUES ('first')")
        yield service


def start_database(service: Service) -> None:
    """Start the local overlay's PostgreSQL in the namespace of the service, with two Secrets."""
    local = service.project.path / "deploy/kubernetes/overlays/local/postgresql"
    # The cluster admits a new pod with a delay; `make local` below is tested with its policy.
    objects = [
        each for each in kustomize(local) if each["kind"] not in ("Namespace", "NetworkPolicy")
    ]
    for each in objects:
        each["metadata"]["namespace"] = service.namespace
    service.kubectl("apply", "--filename=-", stdin=yaml.safe_dump_all(objects))
    service.kubectl("rollout", "status", "statefulset/postgresql", "--timeout=600s")
    sql(service, "ALTER SYSTEM SET fsync = off")  # other tests use the same disk
    sql(service, "SELECT pg_reload_conf()")
    sql(service, expand.ROLE)
    for name, role in ((service.slug, "service"), (f"{service.slug}-migration", "postgres")):
        address = f"--from-literal=DATABASE_URL=postgresql://{role}@postgresql/postgres"
        service.kubectl("create", "secret", "generic", name, address)


def sql(service: Service, statement: str) -> list[str]:
    """Run a statement in the database; return the rows of its result."""
    psql = ("psql", "--username=postgres", "-XAqtv", "ON_ERROR_STOP=1", "-c", statement)
    return service.kubectl("exec", "postgresql-0", "--", *psql).splitlines()


def under_load(service: Service, client: Path, event: Callable[[], object]) -> Tally:
    """Call a function during a load that reads and writes; return the outcomes."""
    described = service.cluster.get("service", service.slug, f"--namespace={service.namespace}")
    host = described["spec"]["clusterIP"]

    async def run() -> Tally:
        load = Load(80, list(expand.PATHS), rate=RATE, namespace=client, host=host)
        async with asyncio.timeout(SECONDS):
            await load.answered(REQUESTS // 20)
            await asyncio.to_thread(event)
            await load.answered(max(REQUESTS, load.tally.answered + REQUESTS // 20))
            return await load.stop()

    return asyncio.run(run())


def test_failed_migration_keeps_the_previous_version_and_prints_the_reason(
    service: Service,
) -> None:
    package = service.project.path / "src" / service.project.package
    broken = package / "migrations/0002_broken.py"
    broken.write_text(expand.MIGRATION.replace('"notes"', '"absent"'))
    before = service.deployment()["spec"]
    with published(service.project, service.cluster, "broken") as image:
        status, output = service.deploy("staging", image)
    broken.unlink()

    assert status == 1
    assert 'relation "absent" does not exist' in output
    assert service.deployment()["spec"] == before


def jobs(service: Service) -> list[Any]:
    """The Jobs that have not ended."""
    found = service.cluster.get("jobs", f"--namespace={service.namespace}")["items"]
    return [each for each in found if not each["status"].get("conditions")]


def test_migration_whose_image_is_missing_prints_why_and_leaves_no_job(service: Service) -> None:
    before = service.state()

    status, output = service.deploy("staging", MISSING_IMAGE, patience=IMPATIENT)

    assert status == 1
    assert re.search(
        "migrate: the migration of staging does not start. .*(ErrImage|ImagePull)", output
    )
    assert output.endswith("deploy: rolling back\n")
    assert service.state() == before
    assert jobs(service) == []


def test_interrupted_migration_is_stopped_and_rolled_back(service: Service) -> None:
    before = service.state()
    started, output = start_deploy(service, "job.batch/", MISSING_IMAGE, PATIENCE="300")

    started.send_signal(signal.SIGTERM)  # not to its children
    rest, _ = started.communicate(timeout=600)

    assert started.returncode == 128 + signal.SIGTERM, output + rest
    assert rest.endswith("deploy: rolling back\n")
    assert service.state() == before
    assert jobs(service) == []


def test_deploy_that_is_overtaken_during_its_migration_is_not_rolled_back(
    service: Service,
) -> None:
    before = service.state()
    name = f"deployment/{service.slug}"
    started, output = start_deploy(service, "job.batch/", MISSING_IMAGE, PATIENCE="300")
    service.kubectl("set", "image", name, f"app={OTHER_IMAGE}")

    started.send_signal(signal.SIGTERM)
    rest, _ = started.communicate(timeout=600)
    [container] = service.deployment()["spec"]["template"]["spec"]["containers"]
    restored, why = service.deploy()

    assert started.returncode == 128 + signal.SIGTERM, output + rest
    kept = f"another deploy has meanwhile set the image {OTHER_IMAGE}: nothing is rolled back"
    assert rest.endswith(f"deploy: {kept}\n")
    assert container["image"] == OTHER_IMAGE
    assert restored == 0, why
    assert service.state() == before


def test_rolling_update_with_a_migration_loses_no_request_and_no_committed_row(
    service: Service,
) -> None:
    client = service.cluster.client("ingress")
    expand.next_version(service.project.path / "src" / service.project.package)

    with ExitStack() as stack:
        image = stack.enter_context(published(service.project, service.cluster, "2"))
        output: list[tuple[int, str]] = []
        tally = under_load(service, client, lambda: output.append(service.deploy("staging", image)))
        [container] = service.deployment()["spec"]["template"]["spec"]["containers"]

    assert output[0][0] == 0, output[0][1]
    assert container["image"] == image
    assert tally == Tally(answered=tally.answered)
    assert tally.answered >= REQUESTS
    first, second = expand.counts(sql(service, expand.COUNT))
    assert first + second == tally.posted
    assert min(first, second) > 0


def test_make_local_starts_its_own_database(service: Service, tmp_path: Path) -> None:
    kubeconfig, env = on_this_machine(service, tmp_path)

    status, output = service.run("make", "local", kubeconfig=kubeconfig, env=env)
    notes = ("curl", "--silent", "--fail", f"http://127.0.0.1:{env['PORT']}/notes")
    answered, listed = service.run(*notes)
    down, _ = service.run("make", "local-down", kubeconfig=kubeconfig, env=env)

    assert status == 0, output
    assert (answered, listed) == (0, "[]")
    assert down == 0
    assert f"{service.slug}-local" not in service.namespaces()
