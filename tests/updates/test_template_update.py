"""The scheduled job of a rendered project opens pull requests with updates."""

import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from ..conftest import NAME, Render
from ..harness.job import Runner, job
from ..harness.project import UV, Project
from ..harness.template import LATEST, commit, git
from ..harness.template import render as render_with

UVX = f"{UV}x"
WORKFLOW = ".github/workflows/template-update.yml"
NEWER = "v9999.1.0"
BRANCH = "template-update"
TOKEN = "a secret"
BOT = "github-actions[bot]"


@pytest.fixture(scope="module")
def newer(template: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The template with a further release: changed CI, a new dependency, a renamed file."""
    newer = Path(shutil.copytree(template, tmp_path_factory.mktemp("newer") / "template"))
    (ci,) = newer.glob("template/*/.github/workflows/ci.yml.jinja")
    replace(ci, "minutes: 10", "minutes: 12")
    replace(newer / "template/pyproject.toml.jinja", '"fastapi{', '"starlette",\n    "fastapi{')
    (config,) = newer.glob("template/*/deploy/vm/gunicorn.conf.py.jinja")
    config.rename(config.with_name("gunicorn.py.jinja"))
    commit(newer, "newer")
    git(newer, "tag", NEWER)
    return newer


@pytest.fixture(scope="module")
def copier_in_cache(render: Render, tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """In a separate uv cache.

    The index is queried once, not on each call of uvx, so that all calls use the same response:
    uv.lock contains file sizes, which some responses lack.
    """
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("UV_CACHE_DIR", str(tmp_path_factory.mktemp("cache")))
        project = render(deployment="vm")
        pin = job(project.path / WORKFLOW, "update")["env"]["COPIER"]
        project.run(UVX, "--from", pin, "copier", "--version")
        yield


@dataclass
class Service:
    """A project's remote repository, a clone, and a runner for its jobs."""

    origin: Path
    work: Project
    runner: Runner

    @classmethod
    def like(cls, origin: Path, directory: Path) -> "Service":
        """Return a copy with its own remote repository."""
        shutil.copytree(origin, directory / "origin.git")
        git(directory, "clone", "--quiet", "origin.git", "work")
        runner = Runner(directory / "runner")
        return cls(directory / "origin.git", Project(directory / "work"), runner)

    def push(self, branch: str = "main") -> None:
        """Commit and push the edits of the team."""
        commit(self.work.path, "the team's work")
        git(self.work.path, "push", "--quiet", "origin", f"HEAD:{branch}")

    def run(self, token: str = TOKEN) -> tuple[int, str]:
        """Run the job in a fresh checkout; return its exit status and output."""
        checkout = self.runner.directory / "checkout"
        shutil.rmtree(checkout, ignore_errors=True)
        self.git("clone", "--quiet", str(self.origin), str(checkout))
        steps = job(checkout / WORKFLOW, "update")
        return self.runner.run(checkout, steps, TEMPLATE_UPDATE_TOKEN=token)

    def branch(self, directory: Path) -> Project:
        """Return a checkout of the branch that the job pushed."""
        self.git("clone", "--quiet", "--branch", BRANCH, str(self.origin), str(directory))
        return Project(directory)

    def git(self, *arguments: str) -> str:
        return git(self.origin, *arguments).rstrip("\n")


@pytest.fixture(scope="module")
def copied(newer: Path, copier_in_cache: None, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The remote repository of a service of the previous release, with its uv.lock."""
    project = Project(tmp_path_factory.mktemp("copied") / "service")
    render_with(newer, project.path, {"project_name": NAME, "deployment": "vm"}, LATEST)
    project.uv("lock", "--quiet")
    git(project.path, "init", "--quiet", "--initial-branch", "main")
    commit(project.path, "copied")
    origin = project.path.with_name("origin.git")
    git(project.path, "clone", "--quiet", "--bare", ".", str(origin))
    return origin


@pytest.fixture
def service(copied: Path, tmp_path: Path) -> Service:
    """A session for one test."""
    return Service.like(copied, tmp_path)


@pytest.fixture(scope="module")
def updated(copied: Path, tmp_path_factory: pytest.TempPathFactory) -> Service:
    """A session after one run of the job, read-only."""
    service = Service.like(copied, tmp_path_factory.mktemp("updated"))
    status, output = service.run()
    assert status == 0, output
    return service


def replace(path: Path, old: str, new: str) -> None:
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new))


def test_update_opens_a_pull_request(updated: Service, tmp_path: Path) -> None:
    main = updated.git("rev-parse", "main")

    assert updated.git("log", "--format=%P %an: %s", f"main..{BRANCH}") == (
        f"{main} {BOT}: Template update: {NEWER}"
    )
    assert f"_commit: {NEWER}" in updated.git("show", f"{BRANCH}:.copier-answers.yml")
    *_, create = calls = updated.runner.calls()
    assert create.arguments[:2] == ["pr", "create"]
    assert option(create.arguments, "--head") == BRANCH
    assert option(create.arguments, "--title") == f"Template update: {NEWER}"
    assert "nothing to do" in str(create.body)
    assert {call.token for call in calls} == {TOKEN}
    updated.branch(tmp_path / "branch").uv("lock", "--check")


def test_update_with_a_conflict_opens_a_pull_request_that_fails_ci(
    service: Service, tmp_path: Path
) -> None:
    replace(service.work.path / ".github/workflows/ci.yml", "minutes: 10", "minutes: 20")
    config = service.work.path / "deploy/vm/gunicorn.conf.py"
    config.write_text(config.read_text() + "# ours\n")
    service.push()

    status, output = service.run()

    assert status == 0, output
    create = service.runner.calls()[-1]
    assert option(create.arguments, "--title") == f"Template update: {NEWER}, with conflicts"
    assert "\n    .github/workflows/ci.yml:" in str(create.body)
    assert "now kept/deploy/vm/gunicorn.conf.py" in str(create.body)
    branch = service.branch(tmp_path / "branch")
    assert (branch.path / "kept/deploy/vm/gunicorn.conf.py").read_text() == config.read_text()
    gate = branch.run("python3", "scripts/check_update.py", check=False)
    assert gate.returncode == 1
    assert gate.stdout.startswith(".github/workflows/ci.yml:")


def test_pull_request_is_updated_with_main(updated: Service, tmp_path: Path) -> None:
    service = Service.like(updated.origin, tmp_path)
    service.runner.pull_request_is_open("7\n")
    (service.work.path / "notes.md").write_text("ours\n")
    service.push()

    status, output = service.run()

    assert status == 0, output
    assert service.git("rev-parse", f"{BRANCH}^") == service.git("rev-parse", "main")
    refresh = service.runner.calls()[-1]
    assert refresh.arguments[:4] == ["api", "--silent", "--method", "PATCH"]
    assert refresh.arguments[4] == "repos/{owner}/{repo}/pulls/7"
    assert f"title=Template update: {NEWER}" in refresh.arguments


def test_unchanged_branch_is_not_pushed_again(updated: Service, tmp_path: Path) -> None:
    """Each push would start CI, and dismiss approvals."""
    service = Service.like(updated.origin, tmp_path)

    status, output = service.run()

    assert status == 0, output
    assert service.git("rev-parse", BRANCH) == updated.git("rev-parse", BRANCH)


def test_branch_with_other_commits_is_not_overwritten(updated: Service, tmp_path: Path) -> None:
    service = Service.like(updated.origin, tmp_path)
    git(service.work.path, "switch", "--quiet", BRANCH)
    (service.work.path / "notes.md").write_text("settled\n")
    service.push(BRANCH)
    theirs = service.git("rev-parse", BRANCH)

    status, output = service.run()

    assert status == 0, output
    assert "::warning::template-update has commits of others" in output
    assert service.git("rev-parse", BRANCH) == theirs
    assert [call.arguments for call in service.runner.calls()] == [["auth", "setup-git"]]


def test_no_new_release_opens_no_pull_request(service: Service) -> None:
    replace(service.work.path / ".copier-answers.yml", LATEST, NEWER)
    service.push()

    status, output = service.run(token="")

    assert status == 0, output
    assert "No update is available." in output
    assert service.git("branch", "--list") == "* main"
    assert service.runner.calls() == []


def test_missing_secret_is_reported_if_an_update_is_available(service: Service) -> None:
    status, output = service.run(token="")

    assert status == 1
    assert "::error::An update is available, but the secret TEMPLATE_UPDATE_TOKEN" in output
    assert service.git("branch", "--list") == "* main"


def test_unreadable_template_fails_the_job(service: Service, tmp_path: Path) -> None:
    answers = service.work.path / ".copier-answers.yml"
    answers.write_text(f"_commit: {LATEST}\n_src_path: {(tmp_path / 'gone.git').as_uri()}\n")
    service.push()

    status, output = service.run()

    assert status == 1
    assert "gone.git" in output
    assert service.git("branch", "--list") == "* main"


def option(arguments: list[str], name: str) -> str:
    return arguments[arguments.index(name) + 1]
