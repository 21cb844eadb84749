"""A service's own tests pass with any shell environment, conftest and pytest settings."""

import shutil
from pathlib import Path

import pytest

from ..harness.project import Project

SHELL = {
    "ALLOWED_HOSTS": "x",
    "DATABASE_URL": "postgresql://u:p@db/orders",
    "DOCS": "perhaps",
    "ENVIRONMENT": "test",
    "HTTP_PROXY": "http://127.0.0.1:9",
    "LOG_LEVEL": "10",
    "METRICS_PORT": "x",
    "OTEL_EXPORTER_OTLP_ENDPOINT": "http://127.0.0.1:9",
    "PORTS": "1",
    "THREADS": "many",
    "UVICORN_PORT": "1",
    "WEB_CONCURRENCY": "7",
    "token": "hunter2",
}
# Fixtures with the same names, and one with an import that the service lacks.
CONFTEST = """\
import pytest


@pytest.fixture
def app():
    raise RuntimeError("the team's app")


@pytest.fixture
def client():
    raise RuntimeError("the team's client")
"""
STRICT = "[pytest]\nfilterwarnings =\n    error\n"
OF_THE_TEMPLATE = ("tests/serving", "tests/test_env_example.py", "tests/test_trivyignore.py")


def test_suite_passes_with_any_variable_in_the_shell(project: Project) -> None:
    result = project.run(project.program("python"), "-m", "pytest", "-q", env=SHELL)

    assert " passed" in result.stdout


def test_template_tests_pass_with_another_conftest_and_strict_warnings(
    project: Project, tmp_path: Path
) -> None:
    left_out = shutil.ignore_patterns(".git", ".venv", ".*_cache", "__pycache__")
    copy = Project(shutil.copytree(project.path, tmp_path / "service", ignore=left_out))
    (copy.path / "tests/conftest.py").write_text(CONFTEST)
    (copy.path / "pytest.ini").write_text(STRICT)

    result = copy.run(project.program("python"), "-m", "pytest", "-q", *OF_THE_TEMPLATE, env=SHELL)

    assert " passed" in result.stdout


@pytest.mark.parametrize(
    ("field", "lines"),
    [
        ("", "COMPOSE_PROJECT_NAME=orders\n#UVICORN_RELOAD_DIRS=src\n"),
        ("    database_url: str\n", "#DATABASE_URL=\n"),
        ("    database_url: str\n    pool: int = 5\n", "DATABASE_URL=postgresql://db\nPOOL=5\n"),
    ],
    ids=["no field", "required", "required, with an example"],
)
def test_env_example_may_list_variables_of_other_programs(
    project: Project, tmp_path: Path, field: str, lines: str
) -> None:
    left_out = shutil.ignore_patterns(".git", ".venv", ".*_cache", "__pycache__")
    copy = Project(shutil.copytree(project.path, tmp_path / "service", ignore=left_out))
    with (copy.path / f"src/{copy.package}/settings.py").open("a") as settings:
        settings.write(f"\n{field}")
    with (copy.path / ".env.example").open("a") as example:
        example.write(lines)

    result = copy.run(
        *(project.program("python"), "-m", "pytest", "-q", "tests/test_env_example.py"),
        env={"PYTHONPATH": "src", "DATABASE_URL": "sqlite://"},
    )

    assert "2 passed" in result.stdout
