"""Every kind of service with the newest versions of Copier and all dependencies.

`.github/workflows/latest.yml` runs it each week, so that a failure is known before a user
starts a service with it.
"""

import hashlib
import itertools
import re
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from ..conftest import NAME, Render
from ..harness.project import Project
from ..harness.template import LATEST, TARGETS, git, questions
from ..harness.update import tree

# Answers that change the Python code; the others add only files.
CODE = ("pyproject.toml", "src", "tests")

NEWEST = {"UV_FROZEN": "0", "UV_RESOLUTION": "highest"}

SHAPE = ("deployment", "traces", "database")
Shape = tuple[str, bool, str]
SHAPES: list[Shape] = list(itertools.product(TARGETS, (False, True), ("none", "postgresql")))
# tests/database/test_database.py runs those with a database.
every_shape = pytest.mark.parametrize(
    "shape", [shape for shape in SHAPES if shape[2] == "none"], ids=str
)

Newest = Callable[[Shape], Project]


def combinations() -> Iterator[dict[str, object]]:
    """Yield every combination of these answers, and per target each other choice, one at a time."""
    for deployment, traces, database in SHAPES:
        yield {"deployment": deployment, "traces": traces, "database": database}
    for name, question in questions().items():
        choices = question.get("choices")
        values = list(choices.values()) if isinstance(choices, dict) else []
        if question["type"] == "bool":
            values = [False, True]
        if question.get("when") is False or name in ("python_version", *SHAPE):
            continue
        for target, value in itertools.product(TARGETS, values):
            is_asked = target == "kubernetes" or "kubernetes" not in str(question.get("ask"))
            if is_asked and value != question["default"]:
                yield {"deployment": target, name: value}


def digest(project: Project) -> str:
    """Return a digest of the files that Python runs."""
    listed = git(project.path, "ls-files", "--cached", "--others", "--exclude-standard", *CODE)
    content = hashlib.sha256()
    for name in sorted(listed.splitlines()):
        content.update(name.encode() + b"\0" + (project.path / name).read_bytes())
    return content.hexdigest()


@pytest.fixture(scope="module")
def services(render: Render) -> list[Project]:
    """Renders of all combinations; one of those with equal code."""
    different: dict[str, Project] = {}
    for answers in combinations():
        project = render(**answers)
        different.setdefault(digest(project), project)
    return list(different.values())


def held_back(project: Project) -> list[str]:
    """Return the dependencies whose newest version is not locked."""
    tree = project.uv("tree", "--outdated", "--depth=1", "--all-groups", "--no-dedupe").stdout
    return re.findall(r"^\S*[├└]── (.+\(latest: .+\))", tree, re.MULTILINE)


@pytest.fixture(scope="module")
def newest(services: list[Project], tmp_path_factory: pytest.TempPathFactory) -> Newest:
    """A copy of the service with these answers and a new uv.lock."""
    made: dict[Shape, Project] = {}

    def newest(shape: Shape) -> Project:
        if shape not in made:
            [service] = [s for s in services if shape_of(s) == shape]
            copy = tmp_path_factory.mktemp("newest") / "service"
            left_out = shutil.ignore_patterns(".venv", "uv.lock", "__pycache__", ".*_cache")
            shutil.copytree(service.path, copy, ignore=left_out)
            made[shape] = Project(copy, environment=NEWEST)
            made[shape].uv("lock", "--upgrade", "--refresh")
        return made[shape]

    return newest


def shape_of(service: Project) -> Shape:
    """Return the dependencies of the service."""
    answers = service.answers
    return answers["deployment"], bool(answers["traces"]), answers["database"]


def test_only_three_answers_change_the_package(services: list[Project]) -> None:
    assert sorted(map(shape_of, services)) == sorted(SHAPES)


@every_shape
def test_service_starts_serves_and_stops_with_the_newest_dependencies(
    newest: Newest, shape: Shape
) -> None:
    """Runs its own tests of the lifespan, and of the server from start to drain."""
    project = newest(shape)

    project.uv("run", "--quiet", "mypy")
    assert "passed" in project.uv("run", "--quiet", "pytest").stdout


@every_shape
def test_newest_versions_of_all_dependencies_are_installed(newest: Newest, shape: Shape) -> None:
    assert held_back(newest(shape)) == []


def test_older_version_of_a_dependency_is_reported(newest: Newest) -> None:
    project = newest(("kubernetes", False, "none"))
    file = project.path / "pyproject.toml"
    bounds = file.read_text()
    file.write_text(re.sub(r'"brotli>=.*"', '"brotli<1.2"', bounds))
    try:
        [held] = held_back(project)
    finally:
        file.write_text(bounds)
        project.uv("lock", "--upgrade")

    assert held.startswith("brotli v1.1")


@pytest.mark.parametrize("target", TARGETS)
def test_newest_copier_renders_the_same(
    render: Render, template: Path, tmp_path: Path, target: str
) -> None:
    copier = ("tool", "run", "--refresh-package=copier", "copier@latest", "copy", "--defaults")
    answers = ("-d", f"project_name={NAME}", "-d", f"deployment={target}")
    here = Project(tmp_path)
    here.uv(*copier, *answers, f"--vcs-ref={LATEST}", str(template), "newest")

    git(tmp_path / "newest", "init", "--quiet")
    rendered = tree(render(deployment=target))
    rendered.pop("uv.lock", None)  # another test's
    assert tree(Project(tmp_path / "newest")) == rendered
