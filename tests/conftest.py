"""Fixtures of all tests: the template as a clone, rendered projects, services."""

import os
import uuid
from collections.abc import Callable, Generator, Iterator
from pathlib import Path

import pytest
import yaml
from copier._main import Worker
from jinja2 import Environment, nodes
from pytest_copie.plugin import Copie
from xdist.remote import Producer
from xdist.scheduler import LoadFileScheduling

from .harness import machine, pods, reference_service, service
from .harness.project import Project
from .harness.service import Service
from .harness.site import build
from .harness.template import LATEST, clones_in_memory, git, questions, snapshot

NAME = "Zebra 9 Ledger"

Render = Callable[..., Project]

# They use the cluster of another file.
SAME_CLUSTER = {
    "tests/cluster/test_network.py": "tests/cluster/test_pod_events.py",
    "tests/cluster/test_migration.py": "tests/cluster/test_deploy.py",
}
# These take minutes, so they start first: otherwise they would run alone at the end.
LONGEST = (
    "tests/cluster/test_deploy.py",
    "tests/cluster/test_node_events.py",
    "tests/cluster/test_pod_events.py",
    "tests/docs/test_docs.py",
    "tests/upstream/test_fastapi.py",
    "tests/updates/test_adopt_packages.py",
    "tests/updates/test_adopt_modules.py",
    "tests/vm/test_machine_deploy_under_load.py",
    "tests/docs/test_tutorials.py",
    "tests/database/test_machine_database.py",
    "tests/kubernetes/test_pods.py",
)
# Distributed one by one, after all others.
SINGLE = "tests/updates/test_update.py"


@pytest.fixture(scope="session", autouse=True)
def without_user_settings(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Ignore the developer's own Copier settings."""
    settings = tmp_path_factory.mktemp("settings") / "settings.yml"
    settings.write_text("{}\n")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("COPIER_SETTINGS_PATH", str(settings))
        yield


@pytest.fixture(scope="session", autouse=True)
def separate_temporary_directory(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Give the pytest of a project another root for its temporary directories.

    Each pytest removes the rights of other users from the root, and the user of a project's
    PostgreSQL needs them.
    """
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PYTEST_DEBUG_TEMPROOT", str(tmp_path_factory.mktemp("projects")))
        yield


@pytest.fixture(scope="session", autouse=True)
def faster_renders() -> Iterator[None]:
    """Render the same files in a third of the CPU time.

    Compiled Jinja templates are kept between renders. YAML is parsed in C. Copier does not run
    `git config` after each file: it asks whether git ignores the mode of files, as on Windows.
    """
    compile_template: Callable[..., object] = Environment.compile
    compiled: dict[tuple[object, ...], object] = {}

    def compile_once(
        self: Environment,
        source: str | nodes.Template,
        name: str | None = None,
        filename: str | None = None,
        raw: bool = False,
        defer_init: bool = False,
    ) -> object:
        options = (self.block_start_string, self.variable_start_string, self.comment_start_string)
        spaces = (self.trim_blocks, self.lstrip_blocks, self.keep_trailing_newline)
        key = (source, raw, *options, *spaces, *sorted(self.extensions))
        if key not in compiled:
            compiled[key] = compile_template(self, source, name, filename, raw, defer_init)
        return compiled[key]

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Environment, "compile", compile_once)
        patch.setattr(yaml, "SafeLoader", yaml.CSafeLoader)
        patch.setattr(Worker, "_sync_git_index_executable_bit", lambda *_: None)
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
            with clones_in_memory():
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
    """The plain example, in the same way."""
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
    """The plain example, in the same way."""
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


class FileScheduling(LoadFileScheduling):
    """Schedule one file at a time on each worker, with two exceptions.

    Files that share a cluster are on one worker. The tests of test_update.py share nothing: they
    are distributed one by one.
    """

    def _split_scope(self, nodeid: str) -> str:
        if nodeid.startswith(SINGLE):
            return nodeid
        file = str(super()._split_scope(nodeid))
        return SAME_CLUSTER.get(file, file)


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Producer) -> FileScheduling:
    """Return the scheduler for xdist."""
    return FileScheduling(config, log)


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_auto_num_workers() -> int:
    """Return two workers per core: tests wait half of the time, for servers or deadlines."""
    return 2 * len(os.sched_getaffinity(0))


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Order the files: the longest first, single tests last."""

    def place(item: pytest.Item) -> int:
        longest = [item.nodeid.startswith(name) for name in LONGEST]
        place = longest.index(True) if True in longest else len(LONGEST)
        return place + item.nodeid.startswith(SINGLE)

    items.sort(key=place)


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
