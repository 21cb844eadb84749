"""The Compose file of a service with a database: the migration, then the new version."""

import json
import os
import shutil
import subprocess
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from ..conftest import Render
from ..harness import compose, expand, images
from ..harness.compose import Stack
from ..harness.images import PODMAN, CommandFailed
from ..harness.project import Project
from ..harness.wait import wait_until

POSTGRESQL = "docker.io/library/postgres:18"
FILES = (*compose.FILES, "deploy/vm/compose.secrets.yaml", "postgresql.yaml")
SERVER = f"""
services:
  postgresql:
    image: {POSTGRESQL}
    user: "999:999"
    environment: {{POSTGRES_HOST_AUTH_METHOD: trust, PGDATA: /tmp/data}}
    tmpfs: /run/postgresql:mode=1777
"""


@pytest.fixture(scope="module")
def service(render: Render, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Project]:
    """The service with a database and its built image."""
    if missing := compose.missing_tools():
        pytest.skip(f"no containers without {', '.join(missing)}")
    slug = f"ledger-{uuid.uuid4().hex[:8]}"
    rendered = render(deployment="vm", database="postgresql", project_slug=slug)
    project = Project(
        Path(shutil.copytree(rendered.path, tmp_path_factory.mktemp("compose") / "service"))
    )
    (project.path / "postgresql.yaml").write_text(SERVER)
    images.ensure([POSTGRESQL])
    with compose.image(project):
        yield project


@contextmanager
def secrets(project: Project, address: str) -> Iterator[Path]:
    """Yield the host's directories of secrets: the service's role and the migration's."""
    host = Path("/etc", project.answers["project_slug"])
    for directory, role in (("secrets", "service"), ("migration", "postgres")):
        file = host / directory / "DATABASE_URL"
        file.parent.mkdir(parents=True)
        file.write_text(f"postgresql://{role}@{address}/postgres\n")
        file.chmod(0o400)
        os.chown(file, 10001, 10001)
    try:
        yield host
    finally:
        shutil.rmtree(host)


def address(stack: Stack) -> str:
    """Return the address of the server, for containers without the engine's DNS."""
    inspect = [*PODMAN, "container", "inspect", stack.container("postgresql").name]
    [found] = json.loads(subprocess.run(inspect, check=True, capture_output=True).stdout)
    [network] = found["NetworkSettings"]["Networks"].values()
    return str(network["IPAddress"])


def wait_for_server(stack: Stack) -> None:
    """Wait until the server accepts connections; the image's first one has no TCP port."""
    ready = ["pg_isready", "--host=127.0.0.1"]
    container = stack.container("postgresql")
    wait_until(lambda: container.exec(ready).returncode == 0, "ready", container.logs)


def sql(stack: Stack, statement: str) -> list[str]:
    """Run a statement in the database; return the rows of its result."""
    psql = ["psql", "--username=postgres", "-XAqtv", "ON_ERROR_STOP=1", "-c", statement]
    result = stack.container("postgresql").exec(psql)
    assert result.returncode == 0, result.stderr
    return result.stdout.splitlines()


def test_migration_with_its_own_role_runs_before_the_service_starts(service: Project) -> None:
    host = f"/etc/{service.answers['project_slug']}"
    variables = {"MIGRATION_SECRETS": f"{host}/migration"}
    with compose.run(service, FILES, variables, services=("postgresql",)) as stack:
        wait_for_server(stack)
        with secrets(service, address(stack)):
            sql(stack, expand.ROLE)
            migrate = ("--profile=migration", "run", "--rm", "migration")
            first = stack.compose(*migrate)
            second = stack.compose(*migrate)
            for name in ("app", "nginx"):
                stack.start(name)
            stack.wait_until_ready()
            json_body = {"Content-Type": "application/json"}
            created = stack.request(
                "/notes", method="POST", body=b'{"text": "first"}', headers=json_body
            )
            [owner] = sql(stack, "SELECT tableowner FROM pg_tables WHERE tablename = 'notes'")
            environment = stack.container("app").exec(["sh", "-c", "cat /proc/[0-9]*/environ"])

    assert "0001" in first
    assert "0001" in second
    assert created.status == 201
    assert owner == "postgres"
    assert "postgresql://" not in environment.stdout


def test_service_with_an_old_schema_exits_with_one_line(service: Project) -> None:
    with compose.run(service, FILES, services=("postgresql",)) as stack:
        wait_for_server(stack)
        with secrets(service, address(stack)):
            sql(stack, expand.ROLE)
            stack.start("app")
            stack.wait_for_log("app", "the schema is at no migration")


def test_failed_migration_exits_with_an_error_and_its_reason(service: Project) -> None:
    with compose.run(service, FILES, services=("postgresql",)) as stack:
        wait_for_server(stack)
        with secrets(service, address(stack)):
            sql(stack, expand.ROLE)  # the service's role has no right to create tables
            with pytest.raises(CommandFailed) as failure:
                stack.compose("--profile=migration", "run", "--rm", "migration")

    assert "permission denied" in str(failure.value)
