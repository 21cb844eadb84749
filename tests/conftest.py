"""Fixtures of all tests: the template as a clone, rendered projects, services."""

import os
import uuid
from collections.abc import Callable, Generator, Iterator
from pathlib import Path

import pytest
from pytest_copie.plugin import Copie

from .harness import machine, pods, reference_service, service
from .harness.project import Project
from .harness.service import Service
from .harness.site import build
from .harness.template import LATEST, git, questions, snapshot

NAME = "Zebra 9 Ledger"

Render = Callable[..., Project]

# `make cluster` runs these: its programs take 12 minutes to build, so CI doesn't yet.
collect_ignore = [] if os.environ.get("CLUSTER") else ["cluster"]


@pytest.fixture(scope="session", autouse=True)
def without_user_settings(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Ignore the developer's own Copier settings."""
    settings = tmp_path_factory.mktemp("settings") / "settings.yml"
    settings.write_text("{}\n")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("COPIER_SETTINGS_PATH", str(settings))
        yield


@pytest.fixture(scope="session")
def template(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A clone of this checkout, tagged as its latest release."""
    return snapshot(tmp_path_factory.mktemp("template") / "clone")


@pytest.fixture
def own_template(tmp_path: Path) -> Path:
    """A clone of the template that a test may change."""
    return snapshot(tmp_path / "template")


@pytest.fixture(scope="session")
def site(template: Path) -> Path:
    """The built site of this repository."""
    return build(template)


@pytest.fixture(scope="session")
def render(template: Path, copie_session: Copie) -> Render:
    """Render a project. The same answers give the same directory, so do not change it."""
    rendered: dict[tuple[tuple[str, object], ...], Project] = {}

    def render(**answers: object) -> Project:
        answers = {"project_name": NAME, **answers}
        assert answers.keys() <= questions(template).keys(), "no such question"
        key = tuple(sorted(answers.items()))
        if key not in rendered:
            result = copie_session.copy(answers, template_dir=template, vcs_ref=LATEST)
            if result.exception:
                raise result.exception
            assert result.project_dir
            git(result.project_dir, "init", "--quiet")
            rendered[key] = Project(result.project_dir)
        return rendered[key]

    return render


@pytest.fixture(scope="session", params=["kubernetes", "vm"])
def target(request: pytest.FixtureRequest) -> str:
    """Each target."""
    return str(request.param)


@pytest.fixture(scope="session")
def project(render: Render, target: str) -> Project:
    """The project of a target, with its virtual environment."""
    project = render(deployment=target)
    project.uv("sync", "--quiet")
    return project


@pytest.fixture(scope="session")
def reference(render: Render, target: str, tmp_path_factory: pytest.TempPathFactory) -> Project:
    """The reference service of a target, with its virtual environment."""
    directory = tmp_path_factory.mktemp("reference") / target
    reference = reference_service.graft(render(deployment=target), directory)
    reference.uv("sync", "--quiet")
    return reference


@pytest.fixture(scope="session")
def production(
    render: Render, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[pods.Deployment]:
    """The reference service in production on Kubernetes, with its image built."""
    rendered = render_for_pods(render)
    directory = tmp_path_factory.mktemp("production") / "service"
    project = service.watch(reference_service.graft(rendered, directory))
    deployment = pods.Deployment.production(project)
    with pods.image(deployment):
        yield deployment


@pytest.fixture(scope="session")
def plain_production(render: Render) -> Iterator[pods.Deployment]:
    """The same of the plain example."""
    deployment = pods.Deployment.production(render_for_pods(render))
    with pods.image(deployment):
        yield deployment


def render_for_pods(render: Render) -> Project:
    """Render a project with a short budget."""
    if missing := pods.missing_tools():
        pytest.skip(f"no pods without {', '.join(missing)}")
    # A unique name for the image, in case of other test runs on this machine.
    slug = f"ledger-{uuid.uuid4().hex[:8]}"
    return render(deployment="kubernetes", project_slug=slug, request_timeout_seconds=5)


@pytest.fixture(scope="session")
def watched(render: Render, tmp_path_factory: pytest.TempPathFactory) -> Project:
    """The reference service for a VM, with a short budget and routes for the tests."""
    rendered = render_for_machine(render)
    return service.prepare(rendered, tmp_path_factory.mktemp("watched") / "service")


@pytest.fixture(scope="session")
def plain_watched(render: Render, tmp_path_factory: pytest.TempPathFactory) -> Project:
    """The same of the plain example."""
    rendered = render_for_machine(render)
    return service.prepare(rendered, tmp_path_factory.mktemp("plain") / "service", plain=True)


def render_for_machine(render: Render) -> Project:
    """Render a project with a short budget."""
    if missing := machine.missing_tools():
        pytest.skip(f"no machine without {', '.join(missing)}")
    return render(deployment="vm", request_timeout_seconds=5)


@pytest.fixture(scope="module")
def checkout(watched: Project) -> Iterator[Service]:
    """A newly installed machine with a checkout of the service."""
    with machine.boot() as booted:
        yield service.check_out(watched, booted)


@pytest.fixture(scope="module")
def installed(checkout: Service) -> Service:
    """The service, deployed on that machine."""
    checkout.install()
    return checkout


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(
    item: pytest.Item, call: pytest.CallInfo[None]
) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """With DEMAND_EVERY_TIER set, skipped tests fail, so that CI runs all of them."""
    report = yield
    if os.environ.get("DEMAND_EVERY_TIER") and report.skipped:
        report.outcome = "failed"
        report.longrepr = f"skipped, though every tier is demanded: {report.longrepr}"
    return report
