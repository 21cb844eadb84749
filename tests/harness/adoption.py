"""Services without the template, adopted by the steps of docs/how-to/adopt.md."""

import re
import shutil
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from zipfile import ZipFile

from . import reference_service
from .pages import follow, for_other_target, reader
from .project import Project
from .template import ROOT, commit, git

PAGE = (ROOT / "docs/how-to/adopt.md").read_text()
OLD_PLACE, NEW_PLACE = PAGE.split("\n## Copy the template onto it\n")
SOURCES = ROOT / "tests/adoption"
# Tests of the template outside of tests/serving.
DELIVERED = ("tests/test_env_example.py", "tests/test_trivyignore.py")


@dataclass(frozen=True)
class Grown:
    """An existing service, and its values for the page."""

    name: str
    package: str
    shapes: tuple[str, ...] = ()
    environment: Mapping[str, str] = field(default_factory=dict)
    application: str = ""
    """The file that creates the application, at its new path."""
    packed: tuple[str, ...] = ()
    """Data files of its package."""


def write_ledger(path: Path) -> None:
    """The reference service without the template."""
    shutil.copytree(reference_service.SOURCE / "src", path / "src/ledger")
    shutil.copytree(reference_service.SOURCE / "tests", path / "tests")
    (example,) = ROOT.glob("template/src/*/routes/large_response.py")
    shutil.copy(example, path / "src/ledger/routes")
    for name in ("src/ledger/__init__.py", "src/ledger/routes/__init__.py", "tests/__init__.py"):
        (path / name).touch()
    bare = {
        "src/ledger/app.py": (
            ("from . import errors, monitoring, serving\n", "from . import errors, monitoring\n"),
            ("settings or serving.load(Settings)", "settings or Settings()"),
            ("    serving.install(app, settings)\n", ""),
            ('title="Ledger",', 'title="Ledger",\n        max_body_size=2**20,'),
        ),
        "src/ledger/settings.py": (
            ("from .serving import ServingSettings", "from pydantic_settings import BaseSettings"),
            ("(ServingSettings)", "(BaseSettings)"),
        ),
        "tests/test_answers.py": (  # Starlette's body limit bypasses exception handlers
            (
                'assert (response.status_code, response.json()) == (413, {"error": "too large"})',
                "assert response.status_code == 413",
            ),
        ),
    }
    for name, changes in bare.items():
        text = (path / name).read_text()
        for old, new in changes:
            assert text.count(old) == 1, old
            text = text.replace(old, new)
        (path / name).write_text(text)
    requirements = (reference_service.SOURCE / "requirements.txt").read_text()
    needed = ["fastapi==0.165.0", "uvicorn", *re.findall("^[^#\n]+$", requirements, re.MULTILINE)]
    (path / "pyproject.toml").write_text(
        f"""\
[project]
name = "ledger"
version = "3.1.0"
description = "Accounts and transfers"
requires-python = ">=3.11"
dependencies = {[*needed, "pydantic-settings==2.6.1"]}

[dependency-groups]
dev = ["pytest>=8", "httpx"]

[project.urls]
Chat = "https://chat.example/ledger"

[build-system]
requires = ["setuptools>=80"]
build-backend = "setuptools.build_meta"
""".replace("'", '"')
    )
    (path / "README.md").write_text("# Ledger\n")
    (path / ".gitignore").write_text("__pycache__/\n.venv/\n*.egg-info/\n")


def own_tests(project: Project) -> set[str]:
    """Return the names of the service's own tests."""
    ignored = [f"--ignore={name}" for name in ("tests/serving", *DELIVERED)]
    collect = ("pytest", "--collect-only", "--quiet", *ignored)
    output = project.uv("run", "--all-extras", "--all-groups", *collect).stdout
    return set(re.findall(r"::(\S+)$", output, re.MULTILINE))


@dataclass(frozen=True)
class Service:
    """A service in the environment of a reader, and the names of its own tests."""

    grown: Grown
    project: Project
    tests: set[str]


def create_service(grown: Grown, template: Path, directory: Path) -> Service:
    """Write a service, and follow the page up to the copy of the template."""
    path = directory / grown.name
    if grown.name == "ledger":
        write_ledger(path)
    else:
        shutil.copytree(SOURCES / grown.name, path, ignore=reference_service.LEFT_OUT)
    environment = {
        **reader(directory / "home", template),
        **grown.environment,
        "NAME": grown.name.title(),
        "PACKAGE": grown.package,
    }
    project = Project(path, environment=environment)
    git(path, "init", "--quiet", "--initial-branch", "main")
    commit(path, "a service")
    follow(OLD_PLACE, project, *grown.shapes)
    return Service(grown, project, own_tests(project))


def adopt(raised: Service, directory: Path, target: str) -> Service:
    """Follow the rest of the page in a copy of that service."""
    for part in (raised.grown.name, "template"):
        left_out = shutil.ignore_patterns(".venv", ".pytest_cache")
        source = raised.project.path.parent / part
        shutil.copytree(source, directory / part, ignore=left_out, symlinks=True)
    project = Project(directory / raised.grown.name, environment=raised.project.environment)
    page = NEW_PLACE if target == "kubernetes" else for_other_target(NEW_PLACE)
    follow(page, project, *raised.grown.shapes)
    return Service(raised.grown, project, own_tests(project))


def faults(adopted: Service) -> list[str]:
    """Return a line for each promise of the page that an adopted service breaks."""
    project, grown = adopted.project, adopted.grown
    found = git(project.path, "status", "--porcelain").splitlines()
    found += project.run("python3", "scripts/check_update.py", check=False).stdout.splitlines()
    if (project.path / "README.md").read_text() != git(project.path, "show", "main:README.md"):
        found.append("README.md: overwritten")
    source = f"src/{grown.package}/{grown.application}"
    history = git(project.path, "log", "--follow", "-M20%", "--format=%s", source)
    if history.splitlines()[-1] != "a service":
        found.append(f"{source}: its history is lost")
    project.uv("build", "--quiet", "--wheel", "--out-dir", "build/wheel")
    (wheel,) = (project.path / "build/wheel").glob("*.whl")
    packed = ZipFile(wheel).namelist()
    found += [
        f"{name}: not in the image"
        for name in grown.packed
        if f"{grown.package}/{name}" not in packed
    ]
    return found
