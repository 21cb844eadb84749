"""Secrets of a host: read by the service through systemd, changed without a lost request, shown
nowhere."""

import re
import uuid

import pytest

from ..harness.machine import Machine
from ..harness.service import DEPLOY_RATE, Service

TOKEN = uuid.uuid4().hex


@pytest.fixture
def machine(installed: Service) -> Machine:
    return installed.machine


def check(service: Service) -> list[str]:
    """Return the output of the configuration check on the host, run as in deploy/README.md."""
    etc, release = f"/etc/{service.slug}", f"/opt/{service.slug}/current"
    return service.machine.run(
        *("systemd-run", "--quiet", "--wait", "--pipe", f"--uid={service.slug}"),
        f"--property=EnvironmentFile={etc}/env",
        f"--property=LoadCredential=secrets.d:{etc}/secrets",
        "--property=Environment=ENVIRONMENT=production FORWARDED_ALLOW_IPS=*",
        f"--working-directory={release}",
        *(f"{release}/.venv/bin/python", "-m", f"{service.package}.serving"),
        check=False,
    ).stdout.splitlines()


def test_deploy_creates_a_directory_readable_by_root_only(
    installed: Service, machine: Machine
) -> None:
    directory = f"/etc/{installed.slug}/secrets"
    machine.run("chmod", "755", directory)

    installed.deploy()

    assert machine.run("stat", "--format=%a %U", directory).stdout == "700 root\n"
    as_service = ("setpriv", f"--reuid={installed.slug}", "--clear-groups", "ls", directory)
    assert machine.run(*as_service, check=False).returncode != 0


def test_deploy_of_the_same_release_applies_a_new_secret_and_loses_no_request(
    installed: Service,
) -> None:
    assert not installed.accepts(TOKEN)
    installed.secret("API_TOKEN", f"{TOKEN}\n")
    release = installed.machine.run("readlink", f"/opt/{installed.slug}/current").stdout

    tally = installed.under_load(
        lambda: installed.machine.run(installed.deploy_here), rate=DEPLOY_RATE
    )

    assert (tally.lost, tally.failed, tally.refused) == (0, 0, 0), tally
    assert installed.accepts(TOKEN)
    assert installed.machine.run("readlink", f"/opt/{installed.slug}/current").stdout == release


def test_secret_is_not_exposed_on_the_host(installed: Service) -> None:
    assert installed.accepts(TOKEN)

    printed = check(installed)

    assert "API_TOKEN=**********" in printed
    assert TOKEN not in "\n".join(printed)
    assert installed.shown(TOKEN) == []


def test_search_finds_a_secret_in_the_environment(installed: Service) -> None:
    """Check that the search above works."""
    name = uuid.uuid4().hex
    unit = ("systemd-run", "--unit=shown", "--property=Type=exec", f"--setenv=SECRET={name}")
    installed.machine.run(*unit, "sleep", "1000")

    found = installed.shown(name)
    installed.machine.run("systemctl", "stop", "shown")

    assert any(re.fullmatch(r"/proc/\d+/environ", place) for place in found), found


def test_reload_keeps_the_secret_and_restart_applies_the_new_one_without_lost_requests(
    installed: Service, machine: Machine
) -> None:
    installed.secret("API_TOKEN", "another")

    machine.run("systemctl", "reload", installed.unit)
    kept = installed.accepts(TOKEN), installed.accepts("another")
    tally = installed.under_load(lambda: machine.run("systemctl", "restart", installed.unit))

    assert kept == (True, False)
    assert (tally.lost, tally.failed, tally.refused) == (0, 0, 0), tally
    assert (installed.accepts(TOKEN), installed.accepts("another")) == (False, True)


def test_deploy_with_an_unusable_secret_prints_the_reason_and_the_old_one_serves(
    installed: Service, machine: Machine
) -> None:
    """The temporary instance of a deploy reads the same secrets."""
    installed.secret("API_TOKEN", "\n")

    result = machine.run(installed.deploy_here, check=False)

    assert result.returncode == 1
    lines = result.stdout.splitlines()
    assert re.fullmatch(r"API_TOKEN: \S+/secrets\.d_API_TOKEN: is empty", lines[-2]), lines
    assert re.fullmatch(r"deploy: \S+ does not become ready; \S+ keeps serving", lines[-1])
    assert installed.accepts("another")


def test_missing_secrets_directory_is_one_line_and_deploy_creates_it(
    installed: Service, machine: Machine
) -> None:
    machine.run("rm", "-r", f"/etc/{installed.slug}/secrets")
    before = len(machine.journal(installed.unit))

    refused = machine.run("systemctl", "restart", installed.unit, check=False)
    lines = machine.journal(installed.unit)[before:]
    machine.run("systemctl", "reset-failed", installed.unit)
    machine.run(installed.deploy_here)

    assert refused.returncode != 0
    assert any("Failed to set up credentials" in line for line in lines), lines
    assert installed.version == "1"


def test_other_files_have_no_effect_and_links_are_named_by_a_deploy(
    installed: Service, machine: Machine
) -> None:
    installed.secret("API_TOEKN", TOKEN)
    machine.run("ln", "-sf", "/root/token", f"/etc/{installed.slug}/secrets/API_TOKEN")

    output = machine.run(installed.deploy_here).stdout
    printed = check(installed)

    link = f"/etc/{installed.slug}/secrets/API_TOKEN: a link, which systemd does not load"
    assert f"secrets    {link}" in output.splitlines(), output
    assert [line for line in printed if line.startswith("#")] == [
        line for line in printed if line.endswith("secrets.d_API_TOEKN: no setting has this name")
    ]
    assert "API_TOKEN=" in printed
    assert installed.shown(TOKEN) == []
