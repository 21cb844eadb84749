"""Debian 12: installation, a deploy and a rollback under load, and nginx's own responses."""

import uuid
from collections.abc import Iterator

import pytest

from ..conftest import Render
from ..harness import machine, service
from ..harness.machine import DEBIAN_12
from ..harness.service import DEPLOY_RATE, Service


@pytest.fixture(scope="module")
def older(render: Render, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    """The service, deployed on a newly installed Debian 12."""
    if missing := machine.missing_tools():
        pytest.skip(f"no machine without {', '.join(missing)}")
    project = service.prepare(
        render(deployment="vm", request_timeout_seconds=5),
        tmp_path_factory.mktemp("older") / "service",
        DEBIAN_12,
    )
    with machine.boot(DEBIAN_12) as booted:
        checkout = service.check_out(project, booted)
        checkout.install()
        yield checkout


def test_service_is_installed_on_the_python_of_debian_12(older: Service) -> None:
    python = f"/opt/{older.slug}/current/.venv/bin/python"

    assert older.version == "1"
    assert older.machine.run(python, "--version").stdout.startswith(f"Python {DEBIAN_12.python}.")
    assert 'VERSION_ID="12"' in older.machine.run("cat", "/etc/os-release").stdout


def test_secret_of_the_host_is_used_and_not_exposed(older: Service) -> None:
    token = uuid.uuid4().hex
    older.secret("API_TOKEN", f"{token}\n")

    tally = older.under_load(
        lambda: older.machine.run(older.deploy_here), requests=2_000, rate=DEPLOY_RATE
    )

    assert (tally.lost, tally.failed, tally.refused) == (0, 0, 0), tally
    assert older.accepts(token)
    assert older.shown(token) == []


def test_deploy_and_rollback_under_load_lose_no_request(older: Service) -> None:
    older.release("2")

    forth = older.under_load(older.deploy, rate=DEPLOY_RATE)
    assert older.version == "2"
    back = older.under_load(lambda: older.deploy("--rollback"), rate=DEPLOY_RATE)
    assert older.version == "1"

    for tally in (forth, back):
        assert (tally.lost, tally.failed, tally.refused) == (0, 0, 0), tally
        assert tally.answered >= 20_000
