"""A checkout with `core.autocrlf=true`: LF everywhere, so scripts run and updates merge."""

import os
from pathlib import Path

import pytest

from ..conftest import NAME
from ..harness.project import Project
from ..harness.template import TARGETS, commit, git, next_release, render
from ..harness.update import Team, conflicts, tree, update

every_target = pytest.mark.parametrize("target", TARGETS)


@pytest.fixture
def autocrlf(monkeypatch: pytest.MonkeyPatch) -> None:
    """Run every git command of the test, including Copier's, with `core.autocrlf=true`."""
    monkeypatch.setenv("GIT_CONFIG_COUNT", "1")
    monkeypatch.setenv("GIT_CONFIG_KEY_0", "core.autocrlf")
    monkeypatch.setenv("GIT_CONFIG_VALUE_0", "true")


def checked_out(template: Path, directory: Path, target: str) -> Project:
    """Return a fresh clone of a rendered and committed service."""
    origin = directory / "origin"
    render(template, origin, {"project_name": NAME, "deployment": target})
    git(origin, "init", "--quiet", "--initial-branch", "main")
    commit(origin, "copied")
    git(directory, "clone", "--quiet", str(origin), "service")
    return Project(directory / "service")


def with_crlf(directory: Path) -> list[str]:
    """Return the tracked files that have CRLF in the working tree."""
    listed = git(directory, "ls-files", "--eol").splitlines()
    return [line.split("\t")[1] for line in listed if line.split()[1] in ("w/crlf", "w/mixed")]


def is_script(file: Path) -> bool:
    return os.access(file, os.X_OK) and file.read_bytes().startswith(b"#!")


@every_target
def test_checkout_with_autocrlf_has_lf_and_its_scripts_run(
    autocrlf: None, template: Path, tmp_path: Path, target: str
) -> None:
    service = checked_out(template, tmp_path, target)
    scripts = [name for name in tree(service) if is_script(service.path / name)]

    assert with_crlf(service.path) == []
    assert f"deploy/{target}/deploy" in scripts
    for name in scripts:
        interpreter = (service.path / name).read_bytes().splitlines()[0]
        if interpreter.endswith(b"bash"):
            service.run("bash", "-n", name)
    deploy = service.run(f"deploy/{target}/deploy", "--nonsense", check=False)
    assert (deploy.returncode, deploy.stdout[:8]) == (1, "deploy: "), deploy.stdout
    service.run("python3", "scripts/check_update.py")


@every_target
def test_update_of_checkout_with_autocrlf_has_no_conflict(
    autocrlf: None, template: Path, tmp_path: Path, target: str
) -> None:
    """The release changes a rendered file and a copied one; the team has edited both elsewhere."""
    source = tmp_path / "template"
    git(tmp_path, "clone", "--quiet", str(template), str(source))
    service = checked_out(source, tmp_path, target)
    team = Team(service)
    team.append("Makefile", "", "ours:", "\ttrue")
    team.append("scripts/load.py", "# ours")
    edits = team.commit()
    for name in ("template/Makefile.jinja", "template/scripts/load.py"):
        file = source / name
        first, _, rest = file.read_text().partition("\n")
        file.write_text(f"{first}\n# new in this release\n{rest}")

    update(service, next_release(source))

    assert conflicts(service) == []
    assert edits.lost_in(service) == []
    changed = git(service.path, "diff", "--numstat", "Makefile", "scripts/load.py").splitlines()
    assert [line.split()[:2] for line in changed] == [["1", "0"]] * 2, changed
    assert with_crlf(service.path) == []


def test_clone_of_template_with_autocrlf_has_lf(
    autocrlf: None, template: Path, tmp_path: Path
) -> None:
    """Copier renders from such a clone, and copies files without Jinja byte by byte."""
    git(tmp_path, "clone", "--quiet", str(template), "clone")

    assert with_crlf(tmp_path / "clone") == []
