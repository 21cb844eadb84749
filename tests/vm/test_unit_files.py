"""The units of a VM, checked by systemd's tools."""

import shutil
import subprocess
from pathlib import Path

import pytest

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
