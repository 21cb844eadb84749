"""The question `database`: files, the budget of connections, updates and switches."""

import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest
import yaml

from ..conftest import NAME, Render
from ..harness import expand
from ..harness.project import UV, Project
from ..harness.template import LATEST, ROOT, TARGETS, commit, one_target_each, questions, releases
from ..harness.template import render as render_with
from ..harness.update import Team, conflicts, copy_and_commit, tree, update
from ..kubernetes.test_manifests import kustomize, of_kind
from ..rendering.test_render import FOREIGN_WORDS, scar, texts

# Terms that a service without a database does not contain.
WORDS = re.compile(
    r"postgres|sqlalchemy|asyncpg|alembic|squawk|database_(?:url|pool|connections)|migration\.env"
    r"|\bserving[./]database|make migrat",
    re.IGNORECASE,
)
# Files that contain the answers, and so the names of the questions.
ANSWERS = {".copier-answers.yml", ".copier-files.txt"}

SLUG = "zebra-9-ledger"

every_target = pytest.mark.parametrize("target", TARGETS)


@every_target
@pytest.mark.parametrize("traces", [False, True])
def test_render_without_a_database_has_no_file_or_term_of_one(
    render: Render, target: str, traces: bool
) -> None:
    found = {
        f"{name}: {match[0]}"
        for name, text in tree(render(deployment=target, traces=traces)).items()
        if name not in ANSWERS
        for match in [WORDS.search(text), WORDS.search(name)]
        # The log masks credentials of any URL; the check has import names of several libraries.
        if match and not name.startswith(("tests/serving/test_logs", "tests/serving/test_check"))
    }

    assert {item for item in found if "scripts/" not in item} == set()


@every_target
def test_render_with_a_database_has_each_of_these_terms(render: Render, target: str) -> None:
    project = render(deployment=target, database="postgresql")

    everything = "\n".join(text for name, text in tree(project).items() if name not in ANSWERS)
    assert len({word.lower() for word in WORDS.findall(everything)}) > 8


@every_target
@pytest.mark.parametrize("ci", ["github", "gitlab"])
def test_render_with_a_database_has_no_term_of_the_other_target_or_trace(
    render: Render, target: str, ci: str
) -> None:
    project = render(
        deployment=target, database="postgresql", ci=ci, dependency_updates="none", traces=True
    )
    words = re.compile(FOREIGN_WORDS[target], re.IGNORECASE)
    rendered = texts(project)

    assert {
        str(name): found for name, text in rendered.items() if (found := scar(name, text))
    } == {}
    assert {
        f"{name}: {match[0]}"
        for name, text in rendered.items()
        for match in [words.search(text), words.search(str(name))]
        if match
    } == set()


def overlay(project: Project, name: str) -> list[dict[str, Any]]:
    return kustomize(project.path / "deploy/kubernetes/overlays" / name)


def check_connections(manifests: list[dict[str, Any]]) -> tuple[int, str]:
    """Return exit status and output of the check that `make validate` runs."""
    [script] = (ROOT / "template").glob("*postgresql*kubernetes*/scripts/connections.py")
    result = subprocess.run(
        [sys.executable, str(script)],
        input=yaml.safe_dump_all(manifests),
        capture_output=True,
        text=True,
    )
    return result.returncode, result.stdout + result.stderr


@pytest.mark.parametrize("connections", [27, 60, 100, 1000])
@pytest.mark.parametrize("seconds", [1, 30, 3600])
def test_pools_of_all_pods_fit_the_connection_budget(
    render: Render, connections: int, seconds: int
) -> None:
    project = render(
        deployment="kubernetes",
        database="postgresql",
        database_connections=connections,
        request_timeout_seconds=seconds,
    )

    for name in ("staging", "production"):
        status, output = check_connections(overlay(project, name))
        assert status == 0, output
        assert f"of {connections}\n" in output


def test_sidecar_is_not_taken_for_the_service(render: Render) -> None:
    manifests = overlay(render(deployment="kubernetes", database="postgresql"), "production")
    [deployment] = [each for each in manifests if each["kind"] == "Deployment"]
    deployment["spec"]["template"]["spec"]["containers"].insert(0, {"name": "proxy"})

    status, output = check_connections(manifests)

    assert status == 0, output


@pytest.mark.parametrize(
    ("kind", "path", "value"),
    [
        ("HorizontalPodAutoscaler", ["spec", "maxReplicas"], 40),
        ("HorizontalPodAutoscaler", ["kind"], "ScaledObject"),
        ("Deployment", ["spec", "strategy", "rollingUpdate", "maxSurge"], "300%"),
        ("ConfigMap", ["data", "DATABASE_POOL_SIZE"], "20"),
        ("ConfigMap", ["data", "DATABASE_CONNECTIONS"], "20"),
        ("ConfigMap", ["data", "DATABASE_POOL_SIZE"], "many"),
    ],
)
def test_overlay_above_the_connection_budget_is_refused_with_one_line(
    render: Render, kind: str, path: list[str], value: object
) -> None:
    manifests = overlay(render(deployment="kubernetes", database="postgresql"), "production")
    assert check_connections(manifests)[0] == 0
    [changed] = of_kind(kind, manifests)
    place: Any = changed
    for key in path[:-1]:
        place = place[key]
    place[path[-1]] = value

    status, output = check_connections(manifests)

    assert status == 1
    assert len(output.splitlines()) == 1
    assert "DATABASE_CONNECTIONS" in output


def test_network_policies_allow_only_the_database_of_the_overlay(
    render: Render,
) -> None:
    project = render(deployment="kubernetes", database="postgresql")

    policies = of_kind("NetworkPolicy", overlay(project, "production"))

    assert len(policies) == 2
    for policy in policies:
        database, *others = policy["spec"]["egress"]
        assert database["ports"] == [{"port": 5432}]
        assert database["to"] == [{"ipBlock": {"cidr": "192.0.2.1/32"}}]
        assert {port["port"] for rule in others for port in rule["ports"]} <= {53, 5353}


def test_local_overlay_has_a_database_that_both_policies_allow(render: Render) -> None:
    project = render(deployment="kubernetes", database="postgresql")
    local = overlay(project, "local")
    database = overlay(project, "local/postgresql")

    [settings] = of_kind("ConfigMap", local)
    address = urlsplit(settings["data"]["DATABASE_URL"])
    [service] = of_kind("Service", database)
    [server] = of_kind("StatefulSet", database)
    labels = server["spec"]["template"]["metadata"]["labels"]
    assert (address.hostname, address.password) == (service["metadata"]["name"], None)
    assert service["spec"]["selector"] == labels
    for policy in of_kind("NetworkPolicy", local):
        to_database, *_ = policy["spec"]["egress"]
        assert to_database["to"] == [{"podSelector": {"matchLabels": labels}}]
    assert {manifest["metadata"].get("namespace") for manifest in database} == {
        None,
        f"{SLUG}-local",
    }
    [made], [applied] = (of_kind("Namespace", manifests) for manifests in (database, local))
    assert made["metadata"]["name"] == applied["metadata"]["name"]
    assert made["metadata"]["labels"].items() <= applied["metadata"]["labels"].items()
    assert check_connections(local)[0] == 0


@pytest.mark.parametrize("database", ["none", "postgresql"])
def test_policy_allows_traces_to_the_collector(render: Render, database: str) -> None:
    def ports(traces: bool) -> set[int]:
        project = render(deployment="kubernetes", database=database, traces=traces)
        policy, *_ = of_kind("NetworkPolicy", overlay(project, "production"))
        return {port["port"] for rule in policy["spec"]["egress"] for port in rule["ports"]}

    assert {4317, 4318} <= ports(traces=True)
    assert not {4317, 4318} & ports(traces=False)


DIGEST = f"registry.example.com/ledger@sha256:{'0123456789abcdef' * 4}"


def test_migration_job_is_named_by_the_digest_and_has_the_settings_of_the_overlay(
    render: Render,
) -> None:
    project = render(deployment="kubernetes", database="postgresql")
    script = str(project.path / "deploy/kubernetes/migrate")

    result = project.run(script, "--dry-run", "staging", DIGEST)

    manifests = [manifest for manifest in yaml.safe_load_all(result.stdout) if manifest]
    assert {manifest["kind"] for manifest in manifests} == {
        *("Namespace", "ServiceAccount", "ConfigMap", "NetworkPolicy", "Job")
    }
    [job] = of_kind("Job", manifests)
    [settings] = of_kind("ConfigMap", manifests)
    assert job["metadata"]["name"].endswith("-migration-0123456789ab")
    assert job["metadata"]["namespace"] == settings["metadata"]["namespace"]
    assert job["spec"]["ttlSecondsAfterFinished"] == 86400, "past Jobs are deleted"
    [container] = job["spec"]["template"]["spec"]["containers"]
    assert container["image"] == DIGEST
    assert container["envFrom"][0]["configMapRef"]["name"] == settings["metadata"]["name"]
    # The Service and the Deployment select another name.
    labels = job["spec"]["template"]["metadata"]["labels"]
    assert labels["app.kubernetes.io/name"].endswith("-migration")
    [policy] = [
        policy
        for policy in of_kind("NetworkPolicy", manifests)
        if policy["spec"]["podSelector"]["matchLabels"].items() <= labels.items()
    ]
    assert policy["metadata"]["name"].endswith("-migration")


@pytest.mark.parametrize(
    ("arguments", "line"),
    [
        (["staging"], "expected an environment and an image"),
        (["moon", DIGEST], "there is no environment moon"),
    ],
)
def test_migrate_with_invalid_arguments_prints_one_line(
    render: Render, arguments: list[str], line: str
) -> None:
    project = render(deployment="kubernetes", database="postgresql")

    result = project.run(str(project.path / "deploy/kubernetes/migrate"), *arguments, check=False)

    assert result.returncode == 1
    assert result.stdout.splitlines()[0].startswith(f"migrate: {line}")


@pytest.mark.parametrize("value", [0, 26, 10_001, -5])
def test_too_few_or_too_many_connections_are_refused(
    template: Path, tmp_path: Path, value: int
) -> None:
    answers = {
        **{"project_name": "Orders", "deployment": "vm", "database": "postgresql"},
        "database_connections": value,
    }

    with pytest.raises(ValueError, match="'database_connections': between 27 and 10000"):
        render_with(template, tmp_path / "shop", answers)

    assert not (tmp_path / "shop").exists()


def copied(template: Path, destination: Path, ref: str = LATEST, **answers: object) -> Project:
    return copy_and_commit(template, destination, ref, **{"project_name": NAME, **answers})


def templates(project: Project) -> dict[str, str]:
    """Return the files that an update writes."""
    package = project.package
    return {
        name: text
        for name, text in tree(project).items()
        if not (
            name == "README.md"
            or (name.startswith(f"src/{package}/") and "/serving/" not in name)
            or (name.startswith("tests/") and not name.startswith("tests/serving/"))
        )
    }


@pytest.mark.parametrize(
    ("release", "target"),
    one_target_each([*(f"v{version}" for version in releases()), LATEST]),
)
def test_database_switched_on_after_any_release_equals_a_new_render(
    template: Path, tmp_path: Path, target: str, release: str
) -> None:
    """Except team-owned files, for which docs/how-to/database.md has the changes."""
    project = copied(template, tmp_path / "old", release, deployment=target)
    Team(project).append(f"src/{project.package}/settings.py", '    greeting: str = "hello"')
    commit(project.path, "the team's work")

    update(project, LATEST, database="postgresql")
    answers = {name: value for name, value in project.answers.items() if name[0] != "_"}
    fresh = copied(template, tmp_path / "new", **answers)

    assert conflicts(project) == []
    assert templates(project) == templates(fresh)
    assert "greeting" in (project.path / f"src/{project.package}/settings.py").read_text()
    assert project.answers["database"] == "postgresql"


@every_target
def test_database_answers_survive_a_switch_of_target(
    template: Path, tmp_path: Path, target: str
) -> None:
    [other] = set(TARGETS) - {target}
    answers: dict[str, Any] = {"database": "postgresql", "database_connections": 100}
    project = copied(template, tmp_path / "old", deployment=target, **answers)
    fresh = copied(template, tmp_path / "new", deployment=other, **answers)

    update(project, LATEST, deployment=other)

    assert conflicts(project) == []
    assert templates(project) == templates(fresh)


def test_database_connections_is_shown_with_a_database_only() -> None:
    question = questions()["database_connections"]

    assert question["ask"] == "{{ database == 'postgresql' }}"
    assert question["default"] == 60


@pytest.mark.parametrize(
    ("migration", "status"),
    [
        (expand.MIGRATION, 0),
        (expand.MIGRATION.replace("op.add_column", "op.drop_column('notes', 'text') #"), 2),
    ],
    ids=["column added", "column dropped"],
)
def test_make_compatible_runs_the_previous_tests_on_the_new_schema(
    template: Path, tmp_path: Path, migration: str, status: int
) -> None:
    project = copied(template, tmp_path / "new", deployment="vm", database="postgresql")
    project.uv("lock", "--quiet")
    commit(project.path, "locked")
    (project.path / f"src/{project.package}/migrations/0002_next.py").write_text(migration)

    result = project.run(
        *("make", "compatible", "BEFORE=main"),
        env={
            "PATH": os.pathsep.join([str(Path(UV).parent), os.environ["PATH"]]),
            "PYTEST_ADDOPTS": "tests/test_notes.py",
        },
        check=False,
    )

    assert result.returncode == status, result.stdout
    assert ("UndefinedColumn" in result.stdout) == bool(status)


def test_check_of_an_update_accepts_a_new_service_with_a_database(
    template: Path, tmp_path: Path, target: str
) -> None:
    project = copy_and_commit(
        template, tmp_path / "service", deployment=target, project_name=NAME, database="postgresql"
    )

    result = project.run("python3", "scripts/check_update.py", check=False)

    assert (result.returncode, result.stdout) == (0, "")
