"""The rendered project passes its own checks on every supported Python."""

import pytest

from ..conftest import Render
from ..harness.project import Project, find_python
from ..harness.template import PYTHONS, TARGETS, commit, git

# The longest accepted names, with which no line may become too long.
LONGEST = {
    "project_name": "Customer Notifications Preference Service for Europe and Asia",
    "project_slug": "customer-notification-preference",
    "description": "Keeps " + "what each customer wants to hear of, " * 4,
}
LONGEST["project_name"] = LONGEST["project_name"][:60]
LONGEST["description"] = LONGEST["description"][:160].rstrip(" ,")


def test_project_passes_its_own_linters_unchanged(project: Project) -> None:
    git(project.path, "add", "--all")

    project.uv("run", "ruff", "check", "--fix", "--show-fixes")
    project.uv("run", "ruff", "format")
    project.uv("run", "mypy")

    assert git(project.path, "diff") == ""


@pytest.mark.parametrize("target", TARGETS)
def test_project_with_the_longest_names_passes_its_linters(render: Render, target: str) -> None:
    project = render(deployment=target, **LONGEST)

    project.uv("run", "--quiet", "ruff", "check")
    project.uv("run", "--quiet", "ruff", "format", "--check", "--diff")


@pytest.mark.parametrize("python", PYTHONS)
def test_every_dependency_has_a_wheel_for_each_python(project: Project, python: str) -> None:
    arguments = (
        "--quiet",
        "--only-binary",
        ":all:",
        "--no-binary",
        project.answers["project_slug"],
    )
    project.uv(
        *("pip", "compile", *arguments, "--python-version", python, "--all-extras"),
        *("--group", "dev", "pyproject.toml"),
    )


@pytest.mark.parametrize("python", ["3.11", "3.12", "3.13"])
def test_rendered_project_passes_its_own_tests(template_copy: Project, python: str) -> None:
    interpreter = find_python(python)
    if interpreter is None:
        pytest.skip(reason=f"no Python {python} on this machine")
    project = Project(
        template_copy.path, interpreter, {"UV_PROJECT_ENVIRONMENT": f".venv-{python}"}
    )

    result = project.uv("run", "--quiet", "pytest")

    assert "passed" in result.stdout


def test_rendered_project_passes_its_own_tests_with_the_lowest_dependencies(
    template_copy: Project,
) -> None:
    project = Project(
        template_copy.path,
        environment={
            "UV_PROJECT_ENVIRONMENT": ".venv-lowest",
            "UV_RESOLUTION": "lowest-direct",
            "UV_FROZEN": "0",
        },
    )
    project.uv("lock")

    result = project.uv("run", "--quiet", "pytest")

    assert "passed" in result.stdout


@pytest.fixture
def template_copy(render: Render, target: str, tmp_path: object) -> Project:
    """The project of a target, committed."""
    project = render(deployment=target)
    commit(project.path, "copied")
    return project
