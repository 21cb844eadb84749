"""A deploy on a booted Debian that migrates the database under load."""

from collections.abc import Iterator

import pytest

from ..conftest import Render
from ..harness import expand, machine, postgresql
from ..harness.postgresql import PostgreSQL
from ..harness.service import DEPLOY_RATE, Service, check_out, prepare


@pytest.fixture(scope="module")
def checkout(render: Render, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    """A newly installed machine, with a checkout of a service with a database."""
    if missing := machine.missing_tools():
        pytest.skip(f"no machine without {', '.join(missing)}")
    rendered = render(deployment="vm", database="postgresql", request_timeout_seconds=5)
    project = prepare(rendered, tmp_path_factory.mktemp("database") / "service", plain=True)
    expand.write_routes(project)
    with machine.boot() as booted:
        yield check_out(project, booted)


@pytest.fixture(scope="module")
def database(checkout: Service, render: Render) -> Iterator[PostgreSQL]:
    """A server on that machine, with a role for the service that does not own the tables."""
    project = render(deployment="vm", database="postgresql", request_timeout_seconds=5)
    project.uv("sync", "--quiet")
    with postgresql.server(project, namespace=checkout.machine.namespace) as server:
        server.sql(expand.ROLE)
        address = server.url.replace("postgres@", "service@")
        checkout.secret("DATABASE_URL", address)
        migration = f"/etc/{checkout.slug}/migration"
        checkout.machine.run("install", "-d", "-m755", migration)
        install = ("install", "-m600", "/dev/stdin", f"{migration}/DATABASE_URL")
        checkout.machine.run(*install, stdin=server.url)
        yield server


@pytest.fixture(scope="module")
def installed(checkout: Service, database: PostgreSQL) -> Service:
    """The first version, deployed, with one note in its database."""
    checkout.install()
    database.sql("INSERT INTO notes (text) VALUES ('first')")
    return checkout


def test_first_deploy_migrates_with_the_role_of_the_migration(
    installed: Service, database: PostgreSQL
) -> None:
    [owner] = database.sql("SELECT tableowner FROM pg_tables WHERE tablename = 'notes'")

    assert owner == "postgres"
    assert installed.status("/notes/1") == 200
    directory = f"/etc/{installed.slug}/migration"
    assert installed.machine.run("stat", "--format=%a", directory).stdout == "700\n"


def test_failed_migration_keeps_the_previous_version(
    installed: Service, database: PostgreSQL
) -> None:
    package = installed.machine.root / installed.path.lstrip("/") / "src" / installed.package
    broken = package / "migrations/0002_broken.py"
    broken.write_text(expand.MIGRATION.replace('"notes"', '"absent"'))
    before = installed.machine.run("readlink", f"/opt/{installed.slug}/current").stdout

    status, lines = installed.deploy(check=False)
    broken.unlink()

    assert status == 1
    assert any('relation "absent" does not exist' in line for line in lines), lines
    assert installed.machine.run("readlink", f"/opt/{installed.slug}/current").stdout == before
    assert installed.status("/notes/1") == 200


def test_deploy_with_a_migration_under_load_loses_no_request_and_no_committed_row(
    installed: Service, database: PostgreSQL
) -> None:
    package = installed.machine.root / installed.path.lstrip("/") / "src" / installed.package
    expand.next_version(package)

    tally = installed.under_load(installed.deploy, rate=DEPLOY_RATE, paths=expand.PATHS)
    back = installed.under_load(
        lambda: installed.deploy("--rollback"),
        requests=2_000,
        rate=DEPLOY_RATE,
        paths=expand.PATHS,
    )

    assert (tally.lost, tally.failed, tally.refused) == (0, 0, 0), tally
    assert (back.lost, back.failed, back.refused) == (0, 0, 0), back
    assert tally.answered >= 20_000
    first, second = expand.counts(database.sql(expand.COUNT))
    assert first + second == tally.posted + back.posted
    assert min(first, second) > 0
