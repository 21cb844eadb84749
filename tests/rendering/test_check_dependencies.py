"""scripts/checks/dependencies.py reports requirements below the template's lower bounds."""

import re
import shutil
import sys
from pathlib import Path

import pytest

from ..conftest import Render
from ..harness.project import Project

CHECK = (sys.executable, "scripts/checks/dependencies.py")
FLOOR = "pydantic-settings>=2.16.0"


@pytest.fixture
def project(render: Render, tmp_path: Path) -> Project:
    """The files that the check reads, of a service on Kubernetes."""
    rendered = render(deployment="kubernetes")
    for name in ("pyproject.toml", ".copier-files.txt", CHECK[1]):
        path = tmp_path / "service" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(rendered.path / name, path)
    return Project(tmp_path / "service")


def require(project: Project, requirement: str) -> None:
    path = project.path / "pyproject.toml"
    text = path.read_text()
    assert f'"{FLOOR}"' in text
    path.write_text(text.replace(f'"{FLOOR}"', f'"{requirement}"'))


@pytest.mark.parametrize(
    "requirement",
    [
        "pydantic-settings==2.6.1",
        "Pydantic_Settings ~= 2.15",
        "pydantic-settings>=2.9,<3",
        "pydantic-settings",
        "pydantic-settings<2.16",
        "pydantic-settings[yaml]>=2.15.9 ; python_version > '3'",
    ],
)
def test_lower_requirement_prints_one_line(project: Project, requirement: str) -> None:
    require(project, requirement)

    result = project.run(*CHECK, check=False)

    assert result.returncode == 1
    assert result.stdout == (
        f"pyproject.toml: {requirement} is lower than what the template needs: {FLOOR}\n"
    )


@pytest.mark.parametrize(
    "requirement",
    [
        FLOOR,
        "pydantic-settings==2.16.0",
        "pydantic_settings>=2.100",
        "pydantic-settings[yaml]~=3.0",
    ],
)
def test_equal_or_higher_requirement_passes(project: Project, requirement: str) -> None:
    require(project, requirement)

    assert project.run(*CHECK).stdout == ""


@pytest.mark.parametrize(
    "table",
    [
        '[tool.uv]\noverride-dependencies = ["fastapi==0.115.0"]\n',
        '[project.optional-dependencies]\nold = ["fastapi==0.115.0"]\n',
    ],
)
def test_lower_requirement_in_another_table_prints_one_line(project: Project, table: str) -> None:
    path = project.path / "pyproject.toml"
    path.write_text(f"{path.read_text()}\n{table}")

    result = project.run(*CHECK, check=False)

    assert result.returncode == 1
    line = r"pyproject.toml: fastapi==0.115.0 is lower .+: fastapi>=.+\n"
    assert re.fullmatch(line, result.stdout)


def test_extra_with_the_templates_requirement_passes(project: Project) -> None:
    path = project.path / "pyproject.toml"
    path.write_text(path.read_text().replace('"fastapi>=', '"fastapi[standard]",\n    "fastapi>='))

    assert project.run(*CHECK).stdout == ""


def test_missing_extra_prints_one_line(project: Project) -> None:
    """Without `standard` uvicorn runs on the slow event loop."""
    path = project.path / "pyproject.toml"
    path.write_text(path.read_text().replace("uvicorn[standard]", "uvicorn"))

    assert "needs: uvicorn[standard]>=" in project.run(*CHECK, check=False).stdout


def test_gate_prints_a_lower_requirement(render: Render, tmp_path: Path) -> None:
    service = shutil.copytree(
        render(deployment="kubernetes").path,
        tmp_path / "gate",
        ignore=shutil.ignore_patterns(".venv"),
    )
    require(Project(service), "pydantic-settings==2.6.1")

    result = Project(service).run(sys.executable, "scripts/check_update.py", check=False)

    assert result.returncode == 1
    assert result.stdout.startswith("pyproject.toml: pydantic-settings==2.6.1 is lower ")
