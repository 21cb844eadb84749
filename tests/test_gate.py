"""scripts/check_update.py of a rendered project: nothing that an update leaves goes unseen."""

import os
import shutil
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import yaml
from copier import VcsRef

from .conftest import Render
from .harness.project import Project
from .harness.template import GIT_ENVIRONMENT, TARGETS, commit, git
from .harness.update import update

GATE = (sys.executable, "scripts/check_update.py")
SILENT = (0, "")

EDITED = {
    "kubernetes": "deploy/kubernetes/base/deployment.yaml",
    "vm": "deploy/vm/gunicorn.conf.py",
}
ADDED = {
    "kubernetes": "deploy/kubernetes/overlays/production/more-memory.yaml",
    "vm": "deploy/vm/nginx/static.conf",
}
OTHER = {"kubernetes": "vm", "vm": "kubernetes"}
OURS = "# ours, and dear to us: \xe4\n"

Prepared = Callable[[str], Project]


@pytest.fixture
def copied(render: Render, tmp_path: Path) -> Prepared:
    """A project of a target, committed, to do with as one likes."""
    return lambda target: copy(render(deployment=target), tmp_path / "service")


@pytest.fixture(scope="module")
def all_switched(render: Render, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Project]:
    """By their old target, projects with a team's work, and switched to the other one."""
    projects = {}
    for old in TARGETS:
        path = tmp_path_factory.mktemp("switched") / "service"
        projects[old] = copy(render(deployment=old), path)
        edit_and_add(projects[old], old)
        update(projects[old], VcsRef.CURRENT, deployment=OTHER[old])
    return projects


@pytest.fixture
def switched(all_switched: dict[str, Project], tmp_path: Path) -> Prepared:
    """Such a project, to do with as one likes; the switch is not committed yet."""

    def switched(old: str) -> Project:
        return Project(shutil.copytree(all_switched[old].path, tmp_path / "service"))

    return switched


@pytest.fixture
def project(copied: Prepared) -> Project:
    """The script doesn't know the target: one will do."""
    return copied("vm")


def copy(project: Project, path: Path) -> Project:
    left_out = shutil.ignore_patterns(".git", ".venv*", "uv.lock", "__pycache__", ".*_cache")
    shutil.copytree(project.path, path, ignore=left_out)
    git(path, "init", "--quiet", "--initial-branch", "main")
    commit(path, "copied")
    return Project(path)


def gate(project: Project, *options: str) -> tuple[int, str]:
    """What it says and its exit status."""
    done = project.run(*GATE, *options, check=False)
    return done.returncode, done.stdout


def write(project: Project, name: str, text: str) -> None:
    path = project.path / name
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a", encoding="utf-8") as file:
        file.write(text)


def edit_and_add(project: Project, target: str) -> None:
    """What a team does in its target's directory."""
    write(project, EDITED[target], OURS)
    write(project, ADDED[target], OURS)
    commit(project.path, "the team's work")


@pytest.mark.parametrize("target", TARGETS)
def test_a_copy_passes_before_its_first_commit_and_after(copied: Prepared, target: str) -> None:
    project = copied(target)
    assert gate(project) == SILENT

    shutil.rmtree(project.path / ".git")
    git(project.path, "init", "--quiet")
    assert gate(project) == SILENT


# ── What is not decided ───────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    "text", ["<<<<<<< before updating\n", "first\n>>>>>>> after updating\n"], ids=["start", "end"]
)
@pytest.mark.parametrize("name", ["src/new.py", "Dockerfile"], ids=["untracked", "tracked"])
def test_a_conflict_marker_is_found(project: Project, name: str, text: str) -> None:
    write(project, name, text)

    status, said = gate(project)

    lines = (project.path / name).read_text().count("\n")
    assert status == 1
    assert said.startswith(f"{name}:{lines}: a conflict: ")


def test_a_rejected_change_is_found(project: Project) -> None:
    write(project, "Dockerfile.rej", "@@ -1 +1 @@\n")

    status, said = gate(project)

    assert status == 1
    assert said.startswith("Dockerfile.rej: ")


def test_an_unmerged_file_is_found_though_its_markers_are_gone(project: Project) -> None:
    path = project.path
    git(path, "switch", "--quiet", "--create", "theirs")
    write(project, "README.md", "theirs\n")
    commit(path, "theirs")
    git(path, "switch", "--quiet", "main")
    write(project, "README.md", "ours\n")
    commit(path, "ours")
    project.run("git", "merge", "theirs", env=GIT_ENVIRONMENT, check=False)
    assert gate(project)[1].count("\n") == 1, "one line, though it is unmerged too"

    git(path, "checkout", "--ours", "README.md")
    status, said = gate(project)
    assert status == 1
    assert said.startswith("README.md: unmerged: ")

    git(path, "add", "README.md")
    assert gate(project) == SILENT


def test_what_only_looks_like_a_marker_is_no_fault(project: Project) -> None:
    write(project, "NOTES.md", "Orders\n=======\n\n    <<<<<<< before\n\n>>>>>>>\n<<<<<<<<< x\n")

    assert gate(project) == SILENT


def test_what_git_ignores_is_not_looked_at(project: Project) -> None:
    write(project, "build/x.py", "<<<<<<< before updating\n")
    write(project, "build/x.rej", "@@ -1 +1 @@\n")

    assert gate(project) == SILENT


# ── Edits that went with an update ────────────────────────────────────────────────────────────


@pytest.mark.parametrize("committed", [False, True], ids=["found at once", "found in the commit"])
@pytest.mark.parametrize("old", TARGETS)
def test_edits_do_not_go_with_a_target_in_silence(
    switched: Prepared, old: str, committed: bool
) -> None:
    project = switched(old)
    before = git(project.path, "show", f"HEAD:{EDITED[old]}")
    assert before.endswith(OURS)
    assert not (project.path / EDITED[old]).exists()
    assert (project.path / ADDED[old]).read_text() == OURS
    if committed:
        commit(project.path, "switched")

    status, said = gate(project)
    assert status == 1
    assert said.startswith(f"{EDITED[old]}: ")
    assert said.count("\n") == 1, "nothing of the files that nobody had edited"

    status, said = gate(project, "--keep")
    assert status == 0
    assert f"kept/{EDITED[old]}" in said
    assert (project.path / "kept" / EDITED[old]).read_text() == before
    assert gate(project) == SILENT

    commit(project.path, "kept")
    assert gate(project) == SILENT

    shutil.rmtree(project.path / "kept")
    commit(project.path, "made good use of it")
    assert gate(project) == SILENT


def test_switching_back_brings_files_that_nobody_has_edited(switched: Prepared) -> None:
    project = switched("vm")
    gate(project, "--keep")
    commit(project.path, "switched")
    update(project, VcsRef.CURRENT, deployment="vm")
    commit(project.path, "switched back")

    update(project, VcsRef.CURRENT, deployment="kubernetes")

    assert gate(project) == SILENT


def test_edits_do_not_go_with_a_file_that_the_template_gives_up(
    copied: Prepared, template: Path, tmp_path: Path
) -> None:
    """Renamed or removed there: Copier deletes it here as well."""
    newer = tmp_path / "template"
    shutil.copytree(template, newer)
    (path,) = newer.glob("template/*/deploy/vm/gunicorn.conf.py.jinja")
    path.rename(path.with_name("gunicorn.py.jinja"))
    commit(newer, "a better name")
    git(newer, "tag", "v9999.1.0")
    project = copied("vm")
    answers = project.path / ".copier-answers.yml"
    answers.write_text(answers.read_text().replace(str(template), str(newer)))
    commit(project.path, "copied from there")
    edit_and_add(project, "vm")

    update(project, "v9999.1.0")

    status, said = gate(project)
    assert status == 1
    assert said.startswith("deploy/vm/gunicorn.conf.py: ")
    gate(project, "--keep")
    commit(project.path, "updated")
    assert gate(project) == SILENT


def test_the_teams_own_deletions_are_its_own_affair(copied: Prepared) -> None:
    """Deleted by itself, or added by the team and deleted along with an update."""
    project = copied("vm")
    edit_and_add(project, "vm")
    write(project, "deploy/notes.md", "mine alone\n")
    commit(project.path, "notes")
    (project.path / EDITED["vm"]).unlink()
    commit(project.path, "not needed")

    update(project, VcsRef.CURRENT, deployment="kubernetes")
    (project.path / "deploy/notes.md").unlink()

    assert gate(project) == SILENT


@pytest.mark.parametrize(("dropped", "status"), [(False, 0), (True, 1)])
def test_a_merge_counts_as_one_commit(switched: Prepared, dropped: bool, status: int) -> None:
    """CI sees a pull request merged, and main may see it squashed: it must hold the copies."""
    project = switched("kubernetes")
    git(project.path, "switch", "--quiet", "--create", "update")
    gate(project, "--keep")
    commit(project.path, "switched, and kept")
    if dropped:
        shutil.rmtree(project.path / "kept")
        commit(project.path, "dropped")
    assert gate(project) == SILENT
    git(project.path, "switch", "--quiet", "main")

    git(project.path, "merge", "--quiet", "--no-ff", "update")

    assert gate(project)[0] == status


def test_keep_overwrites_nothing(switched: Prepared) -> None:
    project = switched("vm")
    write(project, f"kept/{EDITED['vm']}", "older\n")

    status, said = gate(project, "--keep")

    assert status == 2
    assert f"File exists: '{project.path / 'kept' / EDITED['vm']}'" in said
    assert (project.path / "kept" / EDITED["vm"]).read_text() == "older\n"


# ── Where it runs ─────────────────────────────────────────────────────────────────────────────


def test_a_shallow_history_is_said_to_be_one(switched: Prepared, tmp_path: Path) -> None:
    project = switched("vm")
    commit(project.path, "switched")
    origin = project.path.as_uri()
    git(tmp_path, "clone", "--quiet", "--depth=1", origin, "shallow")

    status, said = gate(Project(tmp_path / "shallow"))

    assert status == 0
    assert said.count("\n") == 1
    assert "the history is shallow" in said


def test_ci_runs_it_first_and_on_the_whole_history(render: Render) -> None:
    for target in TARGETS:
        workflow = (render(deployment=target).path / ".github/workflows/ci.yml").read_text()
        checkout, first, *_ = yaml.safe_load(workflow)["jobs"]["test"]["steps"]
        assert checkout["with"]["fetch-depth"] == 0
        assert first == {"run": "python3 scripts/check_update.py"}


def test_it_sees_its_project_from_anywhere_and_inside_a_larger_repository(
    copied: Prepared, tmp_path: Path
) -> None:
    project = copied("vm")
    shutil.rmtree(project.path / ".git")
    git(tmp_path, "init", "--quiet")
    write(Project(tmp_path), "elsewhere.md", "<<<<<<< not ours\n")
    commit(tmp_path, "copied")
    edit_and_add(project, "vm")
    commit(tmp_path, "the team's work")
    for name in ("gunicorn.conf.py", "../README.md"):
        (project.path / "deploy/vm" / name).unlink()
    write(project, ".copier-answers.yml", "# switched\n")

    done = Project(Path("/")).run(sys.executable, str(project.path / GATE[1]), check=False)

    assert (done.returncode, done.stdout.count("\n")) == (1, 1)
    assert done.stdout.startswith(EDITED["vm"])


@pytest.mark.parametrize(
    ("lacking", "said"), [("repository", "not a git repository"), ("git", "'git'")]
)
def test_without_a_repository_or_git_one_line_says_so(
    project: Project, tmp_path: Path, lacking: str, said: str
) -> None:
    variables = {"GIT_CEILING_DIRECTORIES": str(tmp_path)}
    if lacking == "repository":
        shutil.rmtree(project.path / ".git")
    else:
        variables["PATH"] = str(tmp_path)

    done = project.run(os.path.realpath(sys.executable), *GATE[1:], env=variables, check=False)

    assert done.returncode == 2
    assert done.stdout.count("\n") == 1
    assert said in done.stdout


def test_it_is_clean_by_the_projects_own_strict_types(render: Render) -> None:
    project = render(deployment="vm")
    project.uv("sync", "--quiet")

    project.uv("run", "--quiet", "mypy", GATE[1])


def test_updates_through_renovate_are_on(render: Render) -> None:
    project = render(deployment="vm")
    checker = str(Path(sys.executable).with_name("check-jsonschema"))

    project.run(checker, "--builtin-schema=vendor.renovate", "renovate.json")

    renovate = yaml.safe_load((project.path / "renovate.json").read_text())
    assert renovate["copier"]["enabled"] is True
