"""scripts/check_update.py reports everything that remains to do after an update."""

import os
import re
import shutil
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import yaml
from copier import VcsRef, run_recopy

from ..conftest import Render
from ..harness.project import Project
from ..harness.template import GIT_ENVIRONMENT, TARGETS, commit, git
from ..harness.update import update

ANSWERS = ".copier-answers.yml"
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
    """A committed project of a target, which the test may change."""
    return lambda target: copy(render(deployment=target), tmp_path / "service")


@pytest.fixture(scope="module")
def all_switched(render: Render, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Project]:
    """Projects with edits, switched to the other target, by their old target."""
    projects = {}
    for old in TARGETS:
        path = tmp_path_factory.mktemp("switched") / "service"
        projects[old] = copy(render(deployment=old), path)
        edit_and_add(projects[old], old)
        update(projects[old], VcsRef.CURRENT, deployment=OTHER[old])
    return projects


@pytest.fixture
def switched(all_switched: dict[str, Project], tmp_path: Path) -> Prepared:
    """Such a project, which the test may change; the switch is not committed."""

    def switched(old: str) -> Project:
        return Project(shutil.copytree(all_switched[old].path, tmp_path / "service"))

    return switched


@pytest.fixture
def project(copied: Prepared) -> Project:
    """The script does not depend on the target, so one suffices."""
    return copied("vm")


def copy(project: Project, path: Path) -> Project:
    left_out = shutil.ignore_patterns(".git", ".venv*", "uv.lock", "__pycache__", ".*_cache")
    shutil.copytree(project.path, path, ignore=left_out)
    git(path, "init", "--quiet", "--initial-branch", "main")
    commit(path, "copied")
    return Project(path)


def gate(project: Project, *options: str) -> tuple[int, str]:
    """Return the output and the exit status of the gate."""
    result = project.run(*GATE, *options, check=False)
    return result.returncode, result.stdout


def write(project: Project, name: str, text: str) -> None:
    path = project.path / name
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a", encoding="utf-8") as file:
        file.write(text)


def edit_and_add(project: Project, target: str) -> None:
    """Edit files in the directory of the target, and return the edits."""
    write(project, EDITED[target], OURS)
    write(project, ADDED[target], OURS)
    commit(project.path, "the team's work")


@pytest.mark.parametrize("target", TARGETS)
def test_new_copy_passes_before_and_after_its_first_commit(copied: Prepared, target: str) -> None:
    project = copied(target)
    assert gate(project) == SILENT

    shutil.rmtree(project.path / ".git")
    git(project.path, "init", "--quiet")
    assert gate(project) == SILENT


# ── Conflicts ─────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    "text", ["<<<<<<< before updating\n", "first\n>>>>>>> after updating\n"], ids=["start", "end"]
)
@pytest.mark.parametrize("name", ["src/new.py", "Dockerfile"], ids=["untracked", "tracked"])
def test_conflict_marker_is_reported(project: Project, name: str, text: str) -> None:
    write(project, name, text)

    status, output = gate(project)

    lines = (project.path / name).read_text().count("\n")
    assert status == 1
    assert output.startswith(f"{name}:{lines}: a conflict: ")


def test_rejected_change_is_reported(project: Project) -> None:
    write(project, "Dockerfile.rej", "@@ -1 +1 @@\n")

    status, output = gate(project)

    assert status == 1
    assert output.startswith("Dockerfile.rej: ")


def test_unmerged_file_without_markers_is_reported(project: Project) -> None:
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
    status, output = gate(project)
    assert status == 1
    assert output.startswith("README.md: unmerged: ")

    git(path, "add", "README.md")
    assert gate(project) == SILENT


def test_text_that_resembles_a_marker_is_not_a_conflict(project: Project) -> None:
    write(project, "NOTES.md", "Orders\n=======\n\n    <<<<<<< before\n\n>>>>>>>\n<<<<<<<<< x\n")

    assert gate(project) == SILENT


EXAMPLE = "Git writes:\n\n<<<<<<< HEAD\nours\n=======\ntheirs\n>>>>>>> branch\n"


def test_example_markers_in_a_document_are_exempt_by_its_gitattributes(project: Project) -> None:
    write(project, "docs/merging.md", EXAMPLE)
    assert gate(project)[1].startswith("docs/merging.md:3: a conflict: ")

    write(project, ".gitattributes", "docs/merging.md conflict-marker-size=32\n")
    assert gate(project) == SILENT

    write(project, "docs/merging.md", f"{'<' * 32} HEAD\n")
    assert gate(project)[1].startswith("docs/merging.md:8: a conflict: ")


def test_ignored_files_are_not_checked(project: Project) -> None:
    write(project, "build/x.py", "<<<<<<< before updating\n")
    write(project, "build/x.rej", "@@ -1 +1 @@\n")

    assert gate(project) == SILENT


# ── Edits that went with an update ────────────────────────────────────────────────────────────


@pytest.mark.parametrize("committed", [False, True], ids=["found at once", "found in the commit"])
@pytest.mark.parametrize("old", TARGETS)
def test_edits_lost_in_a_switch_of_target_are_reported(
    switched: Prepared, old: str, committed: bool
) -> None:
    project = switched(old)
    before = git(project.path, "show", f"HEAD:{EDITED[old]}")
    assert before.endswith(OURS)
    assert not (project.path / EDITED[old]).exists()
    assert (project.path / ADDED[old]).read_text() == OURS
    if committed:
        commit(project.path, "switched")

    status, output = gate(project)
    assert status == 1
    assert output.startswith(f"{EDITED[old]}: ")
    assert output.count("\n") == 1, "only edited files are reported"

    status, output = gate(project, "--keep")
    assert status == 0
    assert f"kept/{EDITED[old]}" in output
    assert (project.path / "kept" / EDITED[old]).read_text() == before
    assert gate(project) == SILENT

    commit(project.path, "kept")
    assert gate(project) == SILENT

    shutil.rmtree(project.path / "kept")
    commit(project.path, "made good use of it")
    assert gate(project) == SILENT


def test_switching_back_restores_unedited_files(switched: Prepared) -> None:
    project = switched("vm")
    gate(project, "--keep")
    commit(project.path, "switched")
    update(project, VcsRef.CURRENT, deployment="vm")
    commit(project.path, "switched back")

    update(project, VcsRef.CURRENT, deployment="kubernetes")

    assert gate(project) == SILENT


def test_edits_in_a_file_that_the_template_drops_are_reported(
    copied: Prepared, template: Path, tmp_path: Path
) -> None:
    """A file renamed or removed in the template: Copier deletes it in the service."""
    newer = tmp_path / "template"
    shutil.copytree(template, newer)
    (path,) = newer.glob("template/*/deploy/vm/gunicorn.conf.py.jinja")
    path.rename(path.with_name("gunicorn.py.jinja"))
    commit(newer, "a better name")
    git(newer, "tag", "v9999.1.0")
    project = copied("vm")
    answers = project.path / ANSWERS
    answers.write_text(answers.read_text().replace(str(template), str(newer)))
    commit(project.path, "copied from there")
    edit_and_add(project, "vm")

    update(project, "v9999.1.0")

    status, output = gate(project)
    assert status == 1
    assert output.startswith("deploy/vm/gunicorn.conf.py: ")
    gate(project, "--keep")
    commit(project.path, "updated")
    assert gate(project) == SILENT


def test_deletions_of_the_team_are_not_reported(copied: Prepared) -> None:
    """Deleted in a separate commit, or added by the team and deleted together with an update."""
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
def test_merge_counts_as_one_commit(switched: Prepared, dropped: bool, status: int) -> None:
    """CI checks the merged, main the squashed pull request: it must contain the copies."""
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

    status, output = gate(project, "--keep")

    assert status == 2
    assert f"File exists: '{project.path / 'kept' / EDITED['vm']}'" in output
    assert (project.path / "kept" / EDITED["vm"]).read_text() == "older\n"


# ── Edits in commits that also change the answers ─────────────────────────────────────────────


Update = Callable[[Project], None]


@pytest.fixture(scope="module")
def raised(render: Render, tmp_path_factory: pytest.TempPathFactory) -> Project:
    """A project whose last commit is an update that changes many files and deletes none."""
    project = copy(render(deployment="vm"), tmp_path_factory.mktemp("raised") / "service")
    update(project, VcsRef.CURRENT, request_timeout_seconds=60)
    commit(project.path, "updated")
    return project


@pytest.fixture(scope="module")
def raise_timeout(raised: Project) -> Update:
    """Apply that update to a project."""
    return lambda project: repeat(raised, project)


@pytest.fixture(scope="module")
def switch(raised: Project, render: Render, tmp_path_factory: pytest.TempPathFactory) -> Update:
    """Switch to the other target, with or without that update."""
    by_answers = {}
    for start in (raised, render(deployment="vm")):
        project = copy(start, tmp_path_factory.mktemp("switch") / "service")
        answers = (start.path / ANSWERS).read_text()
        update(project, VcsRef.CURRENT, deployment="kubernetes")
        commit(project.path, "switched")
        by_answers[answers] = project
    return lambda project: repeat(by_answers[(project.path / ANSWERS).read_text()], project)


def repeat(other: Project, project: Project) -> None:
    """Apply the last commit of another project like Copier, which does not change links."""
    deleted = git(other.path, "diff", "--name-only", "--diff-filter=D", "HEAD~").splitlines()
    for path in (project.path / name for name in deleted):
        if not path.is_symlink():
            path.unlink(missing_ok=True)
    patch = other.path.with_name("patch")
    patch.write_text(git(other.path, "diff", "--diff-filter=d", "HEAD~"))
    top = git(project.path, "rev-parse", "--show-toplevel").strip()
    folder = git(project.path, "rev-parse", "--show-prefix").strip()
    git(Path(top), "apply", f"--directory={folder}", str(patch))


def edited_in_the_commit_of_the_copy(project: Project, _: Update) -> None:
    write(project, EDITED["vm"], OURS)
    git(project.path, "commit", "--quiet", "--all", "--amend", "--no-edit")


def edited_in_a_squashed_update(project: Project, raise_timeout: Update) -> None:
    raise_timeout(project)
    edit_and_add(project, "vm")


def edited_in_a_merge_commit(project: Project, raise_timeout: Update) -> None:
    path = project.path
    git(path, "switch", "--quiet", "--create", "update")
    raise_timeout(project)
    commit(path, "updated")
    git(path, "switch", "--quiet", "main")
    write(project, "README.md", OURS)
    commit(path, "meanwhile")
    git(path, "merge", "--quiet", "--no-ff", "--no-commit", "update")
    edit_and_add(project, "vm")


def edited_on_main_during_an_update(project: Project, raise_timeout: Update) -> None:
    path = project.path
    git(path, "switch", "--quiet", "--create", "update")
    raise_timeout(project)
    commit(path, "updated")
    git(path, "switch", "--quiet", "main")
    edit_and_add(project, "vm")
    git(path, "merge", "--quiet", "--no-ff", "update")


def edited_before_a_rebased_update(project: Project, raise_timeout: Update) -> None:
    path = project.path
    edit_and_add(project, "vm")
    git(path, "switch", "--quiet", "--create", "update")
    raise_timeout(project)
    commit(path, "updated")
    git(path, "switch", "--quiet", "main")
    write(project, "README.md", OURS)
    commit(path, "meanwhile")
    git(path, "rebase", "--quiet", "main", "update")
    git(path, "switch", "--quiet", "main")
    git(path, "merge", "--quiet", "--ff-only", "update")


def made_binary(project: Project, _: Update) -> None:
    (project.path / EDITED["vm"]).write_bytes(b"\0\xff\r\n<<<<<<< x")
    commit(project.path, "binary")


def made_a_link(project: Project, _: Update) -> None:
    (project.path / EDITED["vm"]).unlink()
    (project.path / EDITED["vm"]).symlink_to("../elsewhere.py")
    commit(project.path, "a link")


def with_other_line_endings(project: Project, _: Update) -> None:
    path = project.path / EDITED["vm"]
    path.write_bytes((path.read_text() + OURS).replace("\n", "\r\n").encode())
    commit(project.path, "from another system")


def edit_reverted_and_done_again(project: Project, _: Update) -> None:
    edit_and_add(project, "vm")
    git(project.path, "revert", "--no-edit", "HEAD")
    git(project.path, "revert", "--no-edit", "HEAD")


EDITS = (
    edited_in_the_commit_of_the_copy,
    edited_in_a_squashed_update,
    edited_in_a_merge_commit,
    edited_on_main_during_an_update,
    edited_before_a_rebased_update,
    made_binary,
    with_other_line_endings,
    edit_reverted_and_done_again,
)


@pytest.mark.parametrize("edit", EDITS, ids=lambda edit: edit.__name__)
def test_edit_of_any_commit_is_reported_when_its_file_is_deleted(
    project: Project, edit: Callable[[Project, Update], None], raise_timeout: Update, switch: Update
) -> None:
    edit(project, raise_timeout)
    assert gate(project) == SILENT
    edited = git(project.path, "rev-parse", f"HEAD:{EDITED['vm']}")

    switch(project)

    output = gate(project)
    assert output == (
        1,
        f"{EDITED['vm']}: an update lost your edits: --keep writes them below kept/\n",
    )
    commit(project.path, "switched")
    assert gate(project) == output
    assert gate(project, "--keep")[0] == 0
    commit(project.path, "kept")
    assert gate(project) == SILENT
    assert git(project.path, "rev-parse", f"HEAD:kept/{EDITED['vm']}") == edited


def only_executable(project: Project, _: Update) -> None:
    (project.path / EDITED["vm"]).chmod(0o755)
    commit(project.path, "executable")


def edit_reverted(project: Project, _: Update) -> None:
    write(project, EDITED["vm"], OURS)
    commit(project.path, "the team's work")
    git(project.path, "revert", "--no-edit", "HEAD")


def renamed_with_edits(project: Project, _: Update) -> None:
    git(project.path, "mv", EDITED["vm"], "deploy/vm/ours.py")
    write(project, "deploy/vm/ours.py", OURS)
    commit(project.path, "renamed")


def renamed_in_a_squashed_update(project: Project, raise_timeout: Update) -> None:
    raise_timeout(project)
    git(project.path, "mv", EDITED["vm"], "deploy/vm/ours.py")
    commit(project.path, "updated and renamed")


def file_of_the_teams_deleted_in_a_squashed_update(project: Project, raise_timeout: Update) -> None:
    write(project, "src/zebra_9_ledger/routes/large_response.py", OURS)
    commit(project.path, "the team's work")
    raise_timeout(project)
    (project.path / "src/zebra_9_ledger/routes/large_response.py").unlink()
    commit(project.path, "updated, and without the example")


def update_reverted(project: Project, raise_timeout: Update) -> None:
    raise_timeout(project)
    commit(project.path, "updated")
    git(project.path, "revert", "--no-edit", "HEAD")


@pytest.mark.parametrize(
    "do",
    [
        only_executable,
        made_a_link,
        edit_reverted,
        renamed_with_edits,
        renamed_in_a_squashed_update,
        file_of_the_teams_deleted_in_a_squashed_update,
        update_reverted,
    ],
    ids=lambda do: do.__name__,
)
def test_switch_without_a_lost_edit_prints_nothing(
    project: Project, do: Callable[[Project, Update], None], raise_timeout: Update, switch: Update
) -> None:
    do(project, raise_timeout)

    switch(project)

    assert gate(project) == SILENT
    commit(project.path, "switched")
    assert gate(project) == SILENT


def test_converted_line_endings_are_not_edits(project: Project, switch: Update) -> None:
    git(project.path, "config", "core.autocrlf", "true")
    (project.path / ".gitattributes").unlink()  # which sets LF
    commit(project.path, "no attributes")
    (project.path / EDITED["vm"]).unlink()
    git(project.path, "checkout", "--", EDITED["vm"])
    assert b"\r\n" in (project.path / EDITED["vm"]).read_bytes()

    switch(project)

    assert "lost" not in gate(project)[1]


# ── A service that moves in its repository ────────────────────────────────────────────────────


def into_a_folder(project: Project, folder: str = "services/ledger") -> Project:
    """Move the service, without a commit."""
    moved = project.path / folder
    moved.mkdir(parents=True)
    for path in list(project.path.iterdir()):
        if path.name not in (".git", Path(folder).parts[0]):
            git(project.path, "mv", path.name, f"{folder}/{path.name}")
    return Project(moved)


@pytest.mark.parametrize("edited", ["before", "in the commit of the move", "after"])
def test_edit_in_a_moved_service_is_found(project: Project, switch: Update, edited: str) -> None:
    if edited == "before":
        edit_and_add(project, "vm")
    moved = into_a_folder(project)
    if edited == "after":
        commit(project.path, "moved")
    if edited != "before":
        write(moved, EDITED["vm"], OURS)
    commit(project.path, "moved, or edited")
    assert gate(moved) == SILENT

    switch(moved)

    status, output = gate(moved)
    assert (status, output.count("\n")) == (1, 1)
    assert output.startswith(f"{EDITED['vm']}: ")


@pytest.mark.parametrize("committed", [False, True])
def test_edit_lost_while_the_service_moves_is_reported(switched: Prepared, committed: bool) -> None:
    project = switched("vm")
    git(project.path, "add", "--all")
    moved = into_a_folder(project)
    if committed:
        commit(project.path, "switched and moved")

    status, output = gate(moved)

    assert (status, output.count("\n")) == (1, 1)
    assert output.startswith(f"{EDITED['vm']}: ")


def test_edit_in_a_repository_merged_into_another_is_found(
    switched: Prepared, tmp_path: Path
) -> None:
    """As with `git subtree add`."""
    project = switched("vm")
    commit(project.path, "switched")
    mono = Project(tmp_path / "mono")
    git(tmp_path, "init", "--quiet", "--initial-branch", "main", "mono")
    write(mono, "README.md", "services\n")
    commit(mono.path, "begun")
    git(mono.path, "fetch", "--quiet", str(project.path), "main")
    git(
        mono.path,
        "merge",
        "--quiet",
        "--no-commit",
        "--allow-unrelated-histories",
        "-s",
        "ours",
        "FETCH_HEAD",
    )
    git(mono.path, "read-tree", "--prefix=services/ledger/", "-u", "FETCH_HEAD")
    commit(mono.path, "merged")
    moved = Project(mono.path / "services/ledger")

    status, output = gate(moved)

    assert (status, output.count("\n")) == (1, 1)
    assert output.startswith(f"{EDITED['vm']}: ")


def test_lost_edit_on_a_pull_request_branch_is_found_in_its_merge(
    project: Project,
    switch: Update,
) -> None:
    """The edit was never on main: only the branch's commits contain it."""
    path = project.path
    git(path, "switch", "--quiet", "--create", "switch")
    edit_and_add(project, "vm")
    switch(project)
    commit(path, "switched")
    git(path, "switch", "--quiet", "main")
    write(project, "notes.md", OURS)
    commit(path, "meanwhile")

    git(path, "merge", "--quiet", "--no-ff", "switch")

    status, output = gate(project)
    assert (status, output.count("\n")) == (1, 1)
    assert output.startswith(f"{EDITED['vm']}: ")


# ── Answers ───────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    ("question", "old", "new"),
    [
        ("deployment", "vm", "kubernetes"),
        ("request_timeout_seconds", "30", "60"),
        ("package_name", "zebra_9_ledger", "ledger"),
    ],
)
@pytest.mark.parametrize("updated", [False, True], ids=["edited", "updated after that"])
def test_manually_edited_answer_is_reported(
    project: Project, question: str, old: str, new: str, updated: bool
) -> None:
    answers = project.path / ANSWERS
    text = answers.read_text()
    assert f"{question}: {old}\n" in text
    answers.write_text(text.replace(f"{question}: {old}\n", f"{question}: {new}\n"))
    if updated:
        commit(project.path, "edited by hand")
        update(project, VcsRef.CURRENT)

    status, output = gate(project)

    assert status == 1
    assert f".copier-answers.yml: {question} was edited by hand" in output


def test_answers_in_another_yaml_style_are_equal(project: Project) -> None:
    answers = project.path / ANSWERS
    answers.write_text(answers.read_text().replace("'", '"') + "\n# a comment\n")

    assert gate(project) == SILENT


def test_template_address_may_be_edited(project: Project) -> None:
    answers = project.path / ANSWERS
    answers.write_text(
        re.sub("_src_path: .*", "_src_path: https://example.com/t.git", answers.read_text())
    )

    assert gate(project) == SILENT


def test_new_package_name_is_reported_until_the_package_has_moved(project: Project) -> None:
    update(project, VcsRef.CURRENT, package_name="ledger")

    status, output = gate(project)
    assert status == 1
    assert (
        output
        == "src/zebra_9_ledger: package_name is ledger now: git mv what is in it to src/ledger\n"
    )

    for path in list((project.path / "src/zebra_9_ledger").iterdir()):
        if path.name != "serving":
            path.rename(project.path / "src/ledger" / path.name)
    shutil.rmtree(project.path / "src/zebra_9_ledger")
    commit(project.path, "moved")
    status, output = gate(project)
    assert status == 1
    assert (
        "tests/conftest.py: it uses the name zebra_9_ledger, but package_name is ledger now"
        in output
    )

    for name in re.findall("^(.+?): it uses", output, re.MULTILINE):
        path = project.path / name
        path.write_text(path.read_text().replace("zebra_9_ledger", "ledger"))
    assert gate(project) == SILENT


def test_new_project_slug_is_reported_until_the_service_uses_it(project: Project) -> None:
    edit_and_add(project, "vm")
    unit = "deploy/vm/systemd/zebra-9-ledger.service"
    write(project, unit, OURS)
    commit(project.path, "the unit")

    update(project, VcsRef.CURRENT, project_slug="books")

    app = "src/zebra_9_ledger/app.py"
    expected = {
        f"{app}: it uses the name zebra-9-ledger, but project_slug is books now",
        f"{unit}: an update lost your edits: --keep writes them below kept/",
    }
    status, output = gate(project)
    assert (status, set(output.splitlines())) == (1, expected)
    path = project.path / app
    path.write_text(path.read_text().replace("zebra-9-ledger", "books"))
    assert gate(project, "--keep")[0] == 0
    assert gate(project) == SILENT


@pytest.mark.parametrize(
    "also", [{}, {"request_timeout_seconds": 60}], ids=["same", "other answers"]
)
def test_edit_overwritten_by_copier_recopy_is_reported(
    project: Project, also: dict[str, object]
) -> None:
    app = "src/zebra_9_ledger/app.py"
    write(project, app, "# ours\n")
    edit_and_add(project, "vm")

    run_recopy(
        project.path, data=also, vcs_ref=VcsRef.CURRENT, defaults=True, overwrite=True, quiet=True
    )

    status, output = gate(project)
    assert status == 1
    assert [line.split(":")[0] for line in output.splitlines()] == [EDITED["vm"], app]


def test_missing_record_is_reported(project: Project) -> None:
    (project.path / ".copier-files.txt").unlink()

    status, output = gate(project)

    assert status == 1
    assert output.startswith(".copier-files.txt: missing, ")


def test_service_without_the_template_passes_the_gate(project: Project) -> None:
    for name in (".copier-answers.yml", ".copier-files.txt"):
        (project.path / name).unlink()

    assert gate(project) == SILENT


# ── Where it runs ─────────────────────────────────────────────────────────────────────────────


def test_shallow_history_is_reported(switched: Prepared, tmp_path: Path) -> None:
    project = switched("vm")
    commit(project.path, "switched")
    origin = project.path.as_uri()
    git(tmp_path, "clone", "--quiet", "--depth=1", origin, "shallow")

    status, output = gate(Project(tmp_path / "shallow"))

    assert status == 0
    assert output.count("\n") == 1
    assert "the history is shallow" in output


def test_ci_runs_the_gate_first_on_the_whole_history(render: Render) -> None:
    for target in TARGETS:
        workflow = (render(deployment=target).path / ".github/workflows/ci.yml").read_text()
        checkout, first, *_ = yaml.safe_load(workflow)["jobs"]["test"]["steps"]
        assert checkout["with"]["fetch-depth"] == 0
        assert first == {"run": "python3 scripts/check_update.py"}


def test_gate_works_from_any_directory_and_in_a_monorepo(copied: Prepared, tmp_path: Path) -> None:
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

    result = Project(Path("/")).run(sys.executable, str(project.path / GATE[1]), check=False)

    assert (result.returncode, result.stdout.count("\n")) == (1, 1)
    assert result.stdout.startswith(EDITED["vm"])


@pytest.mark.parametrize(
    ("lacking", "message"), [("repository", "not a git repository"), ("git", "'git'")]
)
def test_missing_repository_or_git_prints_one_line(
    project: Project, tmp_path: Path, lacking: str, message: str
) -> None:
    variables = {"GIT_CEILING_DIRECTORIES": str(tmp_path)}
    if lacking == "repository":
        shutil.rmtree(project.path / ".git")
    else:
        variables["PATH"] = str(tmp_path)

    result = project.run(os.path.realpath(sys.executable), *GATE[1:], env=variables, check=False)

    assert result.returncode == 2
    assert result.stdout.count("\n") == 1
    assert message in result.stdout


def test_gate_passes_strict_mypy(render: Render) -> None:
    project = render(deployment="vm")
    project.uv("sync", "--quiet")

    project.uv("run", "--quiet", "mypy", GATE[1])


def test_renovate_updates_from_the_template(render: Render) -> None:
    project = render(deployment="vm")
    checker = str(Path(sys.executable).with_name("check-jsonschema"))

    project.run(checker, "--builtin-schema=vendor.renovate", "renovate.json")

    renovate = yaml.safe_load((project.path / "renovate.json").read_text())
    assert renovate["copier"]["enabled"] is True
