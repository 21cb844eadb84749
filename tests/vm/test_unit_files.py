"""The units, the site and the deploy script of a VM, checked without a host."""

import os
import shutil
import subprocess
from pathlib import Path

import pytest

from ..conftest import Render
from ..harness import host
from ..harness.project import Project

EXPOSURE = 15
"""Maximum exposure of `systemd-analyze security`, in tenths: a plain `User=` has 92."""

pytestmark = pytest.mark.parametrize("target", ["vm"], indirect=True, scope="session")


@pytest.fixture(scope="module", autouse=True)
def tools() -> None:
    """The programs that a host has."""
    if missing := host.missing_tools():
        pytest.skip(f"no host without {', '.join(missing)}")


def test_systemd_analyze_verifies_the_units(project: Project, tmp_path: Path) -> None:
    copies = []
    for kind in ("service", "socket"):
        unit = host.unit_file(project, kind)
        copies.append(tmp_path / unit.name)
        copies[-1].write_text(host.installed_here(project, unit.read_text()))

    result = subprocess.run(["systemd-analyze", "verify", *copies], capture_output=True, text=True)

    assert (result.returncode, result.stdout + result.stderr) == (0, "")


def test_exposure_of_the_unit_is_low(project: Project) -> None:
    judge = ["systemd-analyze", "security", "--offline=true", f"--threshold={EXPOSURE}"]

    result = subprocess.run(
        [*judge, host.unit_file(project, "service")], capture_output=True, text=True
    )

    assert result.returncode == 0, result.stdout


@pytest.mark.parametrize(
    ("rights", "refused"),
    [
        ("[Service]\nIPAddressAllow=localhost\n", True),
        ("[Service]\n     IPAddressAllow = localhost\n", True),
        ("[Service]\n  IPAddressDeny = any\n  IPAddressAllow = localhost\n", False),
        ("[Service]\n#     IPAddressAllow=localhost\n", False),
    ],
)
def test_ineffective_address_filter_prints_one_line(
    project: Project, tmp_path: Path, rights: str, refused: bool
) -> None:
    """Checked with systemd's syntax. Without a host, the deploy stops after this check."""
    shutil.copytree(project.path / "deploy", tmp_path / "deploy")
    (tmp_path / "uv.lock").touch()
    (tmp_path / "deploy/vm/systemd/rights.conf").write_text(rights)

    result = Project(tmp_path).run("deploy/vm/deploy", "--host", "host.invalid", check=False)

    assert result.returncode != 0
    assert ("has no effect without IPAddressDeny=any" in result.stdout) == refused, result.stdout


@pytest.mark.parametrize("length", [22, 23, 32])
def test_nginx_accepts_the_site_of_a_long_name(
    render: Render, target: str, tmp_path: Path, length: int
) -> None:
    """nginx limits the length of a variable's name, which begins with that of the package."""
    name = ("orders notification service of europe")[:length]
    project = render(deployment=target, project_name=name, package_name=name.replace(" ", "_"))
    site = host.site_file(project).read_text()

    command = [*host.nginx_command(site, tmp_path), "-t"]
    result = subprocess.run(command, capture_output=True, text=True)

    assert len(project.package) == length
    assert result.returncode == 0, result.stderr


def test_machine_without_gnu_tar_prints_one_line(project: Project, tmp_path: Path) -> None:
    shutil.copytree(project.path / "deploy", tmp_path / "deploy")
    (tmp_path / "uv.lock").touch()
    (tmp_path / "tar").write_text("#!/bin/sh\necho bsdtar 3.5.3\n")
    (tmp_path / "tar").chmod(0o755)

    env = {"PATH": f"{tmp_path}:{os.environ['PATH']}"}
    command = ("deploy/vm/deploy", "--host", "host.invalid")
    result = Project(tmp_path).run(*command, env=env, check=False)

    assert result.returncode == 1
    assert result.stdout == (
        "deploy: the tar of this machine is not GNU tar: put GNU tar first in PATH\n"
    )
