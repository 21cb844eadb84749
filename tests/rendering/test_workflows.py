"""CI of this repository and of rendered projects: well-formed, pinned, few permissions."""

import os
import re
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from ..conftest import Render
from ..harness import actionlint
from ..harness.project import Project
from ..harness.template import PYTHONS, ROOT

SOURCES = ("template", "kubernetes", "vm")
ENVIRONMENTS = ("staging", "production")

Job = dict[str, Any]
Lint = Callable[..., list[str]]


@pytest.fixture(params=SOURCES)
def workflows(request: pytest.FixtureRequest, render: Render) -> list[Path]:
    """The workflows of this repository, and of each target's project."""
    project = ROOT if request.param == "template" else render(deployment=request.param).path
    return sorted(Path(project, ".github/workflows").iterdir())


@pytest.fixture
def lint() -> Lint:
    """A function that returns actionlint's findings in workflows."""
    if missing := actionlint.missing_tools():
        pytest.skip(f"no actionlint without {', '.join(missing)}")
    return actionlint.findings


def jobs(file: Path) -> dict[str, Job]:
    """Return the jobs of a workflow."""
    found: dict[str, Job] = yaml.safe_load(file.read_text())["jobs"]
    return found


@pytest.fixture
def release(render: Render, target: str) -> dict[str, Job]:
    """The jobs of the release workflow."""
    return jobs(render(deployment=target).path / ".github/workflows/release.yml")


@pytest.fixture
def pipeline(render: Render, target: str) -> Path:
    """The jobs of the GitLab pipeline."""
    return render(deployment=target, ci="gitlab").path / ".gitlab-ci.yml"


def output_of(tool: str, *arguments: str | Path) -> str:
    """Return the findings of a tool in this environment, or an empty string."""
    program = Path(sys.executable).with_name(tool)
    result = subprocess.run([program, *arguments], capture_output=True, text=True)
    return result.stdout + result.stderr if result.returncode else ""


def findings(*files: Path, schema: str = "github-workflows") -> Iterator[str]:
    """Yield the findings of all tools for workflows, or for another file that GitHub reads."""
    zizmor = ("--offline", "--pedantic", "--strict-collection", "--no-progress", "--quiet")
    yield from filter(None, [output_of("zizmor", *zizmor, *files)])
    yield from mistakes(schema, *files)


def mistakes(schema: str, *files: Path) -> Iterator[str]:
    """Yield violations of a schema."""
    yield from filter(
        None, [output_of("check-jsonschema", f"--builtin-schema=vendor.{schema}", *files)]
    )


def test_zizmor_and_schema_find_nothing(workflows: list[Path]) -> None:
    assert "ci.yml" in [workflow.name for workflow in workflows]
    assert list(findings(*workflows)) == []


def test_actionlint_finds_nothing(workflows: list[Path], lint: Lint) -> None:
    assert lint(*workflows) == []


@pytest.mark.parametrize("ci", ["github", "none"])
def test_zizmor_finds_nothing_in_dependabot_config(render: Render, target: str, ci: str) -> None:
    project = render(deployment=target, ci=ci, dependency_updates="dependabot")
    file = project.path / ".github/dependabot.yml"

    assert list(findings(file, schema="dependabot")) == []
    kept = [update["package-ecosystem"] for update in yaml.safe_load(file.read_text())["updates"]]
    assert kept == ["uv", "docker", *(["github-actions"] if ci == "github" else [])]


def test_pipeline_is_valid_for_gitlab(pipeline: Path, tmp_path: Path) -> None:
    assert list(mistakes("gitlab-ci", pipeline)) == []

    worse = tmp_path / ".gitlab-ci.yml"
    worse.write_text(pipeline.read_text().replace("    - make test", "    make: test"))
    assert list(mistakes("gitlab-ci", worse)) != []


@pytest.mark.parametrize(
    ("right", "wrong", "complaint"),
    [
        ("timeout-minutes", "timeout-minute", "'timeout-minute' was unexpected"),
        ("@3d3c42e5aac5ba805825da76410c181273ba90b1", "@v7", "not pinned to a hash"),
        ("contents: read", "contents: write", "permission"),
    ],
)
def test_tools_report_a_faulty_workflow(
    tmp_path: Path, right: str, wrong: str, complaint: str
) -> None:
    assert complaint in "".join(findings(worse(tmp_path, right, wrong)))


@pytest.mark.parametrize(
    ("right", "wrong", "complaint"),
    [
        ("ubuntu-24.04", "ubuntu-24.10", "[runner-label]"),
        ("github.run_id", "github.run_it", "[expression]"),
    ],
)
def test_actionlint_reports_a_faulty_workflow(
    lint: Lint, tmp_path: Path, right: str, wrong: str, complaint: str
) -> None:
    [output] = lint(worse(tmp_path, right, wrong))

    assert output.endswith(complaint)


def worse(directory: Path, right: str, wrong: str) -> Path:
    """Return this repository's CI with a fault."""
    text = Path(ROOT, ".github/workflows/ci.yml").read_text()
    assert right in text
    file = directory / ".github/workflows/ci.yml"
    file.parent.mkdir(parents=True)
    file.write_text(text.replace(right, wrong))
    return file


def test_each_action_has_one_version(workflows: list[Path]) -> None:
    """It is pinned in several files, which must be updated together."""
    used = re.findall(
        r"uses: (\w\S+)@(\w{40}) # (\S+)", "".join(file.read_text() for file in workflows)
    )

    assert used
    assert len({action for action, *_ in used}) == len(set(used))


def scripts(project: Project) -> Iterator[str]:
    """Yield the shell scripts of a project's jobs."""
    for file in sorted(project.path.glob(".github/workflows/*.yml")):
        for job in jobs(file).values():
            yield from (step["run"] for step in job.get("steps", ()) if "run" in step)
    if project.answers["ci"] == "gitlab":
        pipeline = yaml.safe_load((project.path / ".gitlab-ci.yml").read_text())
        for job in pipeline.values():
            if isinstance(job, dict) and "script" in job:
                yield "\n".join(job["script"])


@pytest.mark.parametrize("ci", ["github", "gitlab"])
def test_shellcheck_finds_nothing_in_workflow_scripts(
    render: Render, target: str, ci: str, tmp_path: Path
) -> None:
    found = list(scripts(render(deployment=target, ci=ci)))
    assert len(found) > 5

    for number, script in enumerate(found):
        file = tmp_path / str(number)
        file.write_text(script)
        assert output_of("shellcheck", "--shell=bash", "--color=never", file) == ""


# ── From main to production ───────────────────────────────────────────────────────────────


def test_image_is_published_after_tests_and_scan(release: dict[str, Job]) -> None:
    image = release["image"]
    steps = [step.get("name") for step in image["steps"]]

    assert image["needs"] == "ci"
    assert release["ci"]["uses"] == "./.github/workflows/ci.yml"
    assert steps.index("Build") < steps.index("Scan") < steps.index("Push")
    assert steps.index("Push") < steps.index("Sign the image and the SBOM")
    scan = image["steps"][steps.index("Scan")]
    assert "continue-on-error" not in scan
    assert scan["with"] == {"image-ref": "${{ steps.build.outputs.image }}"}


def test_only_the_publishing_job_has_write_permissions(render: Render, target: str) -> None:
    project = render(deployment=target)
    writing = {
        (file.name, name)
        for file in project.path.glob(".github/workflows/*.yml")
        for name, job in jobs(file).items()
        if "write" in job["permissions"].values()
    }

    assert writing == {("release.yml", "image")}


@pytest.mark.parametrize("environment", ENVIRONMENTS)
def test_nothing_is_deployed_without_deploy_to(release: dict[str, Job], environment: str) -> None:
    job = release[environment]

    assert f"contains(vars.DEPLOY_TO, '{environment}')" in job["if"]
    assert "github.ref == 'refs/heads/main'" in job["if"]
    assert job["environment"] == environment, "the environment has the approvers and secrets"
    assert "image" in job["needs"]


def test_production_is_deployed_only_after_a_staging_that_succeeded_or_was_skipped(
    release: dict[str, Job],
) -> None:
    """The result of a job that ran into its timeout is `cancelled`."""
    results = set(re.findall(r"needs\.staging\.result (\S+) '(\w+)'", release["production"]["if"]))

    assert results == {("==", "success"), ("==", "skipped")}


@pytest.mark.parametrize("target", ["kubernetes"], indirect=True)
@pytest.mark.parametrize("environment", ENVIRONMENTS)
def test_deploy_receives_the_signals_of_its_job(
    release: dict[str, Job], environment: str, target: str
) -> None:
    last = release[environment]["steps"][-1]["run"].splitlines()[-1]

    assert last.startswith("exec deploy/kubernetes/deploy ")


def test_gitlab_publishes_and_deploys_under_the_same_conditions(pipeline: Path) -> None:
    jobs: dict[str, Any] = yaml.safe_load(pipeline.read_text())

    assert jobs["stages"] == ["check", "image", "publish", "deploy"]
    assert [jobs[name]["stage"] for name in ("test", "build", "scan", "publish")] == [
        "check",
        "image",
        "image",
        "publish",
    ]
    assert not any("allow_failure" in job for job in jobs.values() if isinstance(job, dict))
    for environment in ENVIRONMENTS:
        never, sometimes = jobs[environment]["rules"]
        assert never == {"if": '$CI_PIPELINE_SOURCE == "schedule"', "when": "never"}
        assert f"$DEPLOY_TO =~ /{environment}/" in sometimes["if"]
        assert jobs[environment]["environment"] == environment
    assert sometimes["when"] == "manual"


def test_trivy_fails_for_high_severities_and_reads_the_ignore_file(
    render: Render, target: str
) -> None:
    path = render(deployment=target).path
    config = yaml.safe_load((path / "trivy.yaml").read_text())

    assert config["exit-code"] == 1
    assert config["severity"] == ["HIGH", "CRITICAL"]
    assert (path / config["ignorefile"]).is_file()


# ── The Python that runs is one that is tested ────────────────────────────────────────────


@pytest.mark.parametrize("image", PYTHONS)
@pytest.mark.parametrize("ci", ["github", "gitlab"])
def test_ci_tests_on_each_python_that_deploy_accepts_and_on_that_of_the_image(
    render: Render, ci: str, image: str
) -> None:
    path = render(deployment="vm", ci=ci, python_version=image).path
    [accepted] = re.findall(
        r"^readonly pythons=\((.+)\)", (path / "deploy/vm/deploy").read_text(), re.M
    )
    if ci == "github":
        found = jobs(path / ".github/workflows/ci.yml")
        tested = [step["with"]["python-version"] for step in setup_uv(found["test"])]
        [matrix] = [step["with"]["python-version"] for step in setup_uv(found["hosts"])]
        assert matrix == "${{ matrix.python }}"
        tested += found["hosts"]["strategy"]["matrix"]["python"]
        assert found["hosts"]["steps"][-1]["run"] == "make test"
    else:
        pipeline = yaml.safe_load((path / ".gitlab-ci.yml").read_text())
        tested = re.findall(r"-python([\d.]+)-", pipeline["default"]["image"])
        assert "-python$PYTHON-" in pipeline["hosts"]["image"]
        [matrix] = pipeline["hosts"]["parallel"]["matrix"]
        tested += matrix["PYTHON"]
        assert pipeline["hosts"]["script"] == ["make test"]

    assert sorted(tested) == sorted({image, *accepted.split()})


def setup_uv(job: Job) -> list[Job]:
    return [step for step in job["steps"] if step.get("uses", "").startswith("astral-sh/setup-uv@")]


# ── Weekly run with the newest versions ───────────────────────────────────────────────────


def test_weekly_run_covers_every_python() -> None:
    weekly = jobs(ROOT / ".github/workflows/latest.yml")["services"]
    run = "\n".join(step.get("run", "") for step in weekly["steps"])

    assert weekly["strategy"]["matrix"]["python"] == list(PYTHONS)
    assert "uv lock --upgrade" in run
    [selected] = re.findall(r"ARGS=(\S+)", run)
    assert (ROOT / selected).is_file()


def test_failed_weekly_run_opens_an_issue(tmp_path: Path) -> None:
    """Runs the workflow's script with a fake `gh`, with and without an open issue."""
    issue = jobs(ROOT / ".github/workflows/latest.yml")["issue"]
    [script] = [step["run"] for step in issue["steps"]]
    assert (issue["needs"], issue["if"]) == ("services", "failure()")
    assert issue["permissions"] == {"issues": "write"}
    file = tmp_path / "script"
    file.write_text(script)
    assert output_of("shellcheck", "--shell=bash", "--color=never", file) == ""

    def calls(found: str) -> str:
        gh = tmp_path / "gh"
        gh.write_text(f'#!/bin/sh\n[ "$2" = list ] && echo "{found}" || echo "$1 $2 $3"\n')
        gh.chmod(0o755)
        environment = {"PATH": f"{tmp_path}:{os.defpath}", "RUN": "https://git.example.com/run/1"}
        command = ["bash", "-euo", "pipefail", str(file)]
        return subprocess.run(
            command, env=environment, check=True, capture_output=True, text=True
        ).stdout

    assert calls("") == "issue create --title\n"
    assert calls("7") == "issue comment 7\n"


# ── The site, on GitHub Pages ─────────────────────────────────────────────────────────────


def test_site_is_published_by_a_job_that_runs_no_repository_code() -> None:
    pages = jobs(ROOT / ".github/workflows/pages.yml")
    build, publish = pages["build"], pages["publish"]

    assert "contains(vars.DEPLOY_TO, 'pages')" in build["if"]
    assert "github.ref == 'refs/heads/main'" in build["if"]
    assert [step["run"] for step in build["steps"] if "run" in step] == ["make docs"]
    assert build["permissions"] == {"contents": "read"}
    assert publish["needs"] == "build"
    assert not [step for step in publish["steps"] if "run" in step]
