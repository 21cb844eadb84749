"""`copier update` from every release, for every target, without --trust and lost edits."""

import re
import shutil
from collections.abc import Callable
from functools import cache
from pathlib import Path

import copier
import pytest
from copier import VcsRef

from ..conftest import NAME
from ..harness import contract, reference_service
from ..harness.ownership import owner
from ..harness.project import Project
from ..harness.template import (
    LATEST,
    ROOT,
    TARGETS,
    commit,
    git,
    next_release,
    one_target_each,
    releases,
)
from ..harness.update import Edits, Team, conflicts, copy_and_commit, tree, update
from ..kubernetes.test_manifests import kustomize, of_kind

GATE = ("python3", "scripts/check_update.py")

every_release = pytest.mark.parametrize("version", releases())
every_target = pytest.mark.parametrize("target", TARGETS)
every_release_and_one_target = pytest.mark.parametrize(
    ("version", "target"), one_target_each(releases())
)
first_and_last = pytest.mark.parametrize("version", [*releases()][:: len(releases()) - 1])


@pytest.fixture(scope="session")
def copies(template: Path, tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Path]:
    """Copy a service from a ref of the template and commit it, once for the same answers."""

    @cache
    def copy(ref: str, *answers: tuple[str, object]) -> Path:
        destination = tmp_path_factory.mktemp("copy") / "service"
        return copy_and_commit(template, destination, ref, **dict(answers)).path

    return copy


@pytest.fixture
def copied(template: Path, tmp_path: Path, copies: Callable[..., Path]) -> Callable[..., Project]:
    """Copy a service from a ref of the template, or of another one, and commit it."""

    def copied(
        target: str, ref: str = LATEST, source: Path = template, **answers: object
    ) -> Project:
        destination = tmp_path / f"{target}-{len(list(tmp_path.iterdir()))}"
        given = {"project_name": NAME, "deployment": target, **answers}
        if source == template:
            shutil.copytree(copies(ref, *given.items()), destination, symlinks=True)
        else:
            copy_and_commit(source, destination, ref, **given)
        return Project(destination)

    return copied


def work_as_a_team(project: Project, target: str) -> Edits:
    """Make and commit typical edits of a team; return them."""
    team, package = Team(project), project.package
    source = f"src/{package}"
    team.append(
        f"{source}/routes/orders.py",
        "from fastapi import APIRouter",
        "",
        "router = APIRouter()",
        "",
        "",
        '@router.get("/orders")',
        "async def orders() -> list[str]:",
        '    return ["first"]',
    )
    team.replace(
        f"{source}/app.py", "from .routes import large_response", "from .routes import orders"
    )
    team.replace(
        f"{source}/app.py",
        "app.include_router(large_response.router)",
        "app.include_router(orders.router)",
    )
    team.append(f"{source}/settings.py", "", '    greeting: str = "hello"')
    if (project.path / ".env.example").exists():  # not before 0.4.0
        team.append(".env.example", "GREETING=hello")
    team.delete(f"{source}/routes/large_response.py", "tests/test_large_response.py")
    team.append("README.md", "", "Ask in #orders.")
    team.append(".gitignore", "*.dump")
    team.append("pyproject.toml", "", "[tool.coverage.run]", "branch = true")
    project.uv("add", "--quiet", "httpx2", "typer")
    project.uv("add", "--quiet", "--dev", "respx")
    for name in ("typer", "respx"):
        (line,) = re.findall(
            rf'^    "{name}.*$', (project.path / "pyproject.toml").read_text(), re.M
        )
        team.edits.written["pyproject.toml"].append(line)
    team.append(".github/workflows/ci.yml", "", "  # and then tell the others")
    if target == "kubernetes":
        overlay = "deploy/kubernetes/overlays/production"
        team.append(f"{overlay}/kustomization.yaml", "patches:", "  - path: more-memory.yaml")
        team.replace(f"{overlay}/kustomization.yaml", "newTag: 0.1.0", "newTag: 1.7.2")
        team.append(f"{overlay}/more-memory.yaml", "kind: Deployment")
    else:
        site = f"deploy/vm/nginx/{project.answers['project_slug']}.conf"
        team.insert_after(
            site,
            "client_max_body_size 1m;",
            "",
            "    location /static/ {",
            "        root /srv;",
            "    }",
        )
    return team.commit()


def test_changelog_has_every_release() -> None:
    versions = re.findall(r"^## (\d[\d.]+)", (ROOT / "CHANGELOG.md").read_text(), re.M)

    assert versions, "no release: nothing to update from"
    assert list(releases()) == versions[::-1]
    assert all(
        "Updating" in part for part in (ROOT / "CHANGELOG.md").read_text().split("\n## ")[2:]
    )


@every_target
@every_release
def test_update_of_an_unedited_service_equals_a_fresh_copy(
    copied: Callable[..., Project], version: str, target: str
) -> None:
    project = copied(target, f"v{version}")

    update(project, LATEST)

    # Kubernetes services of before 0.5.0 keep the route in the base, where their edits are.
    numbers = tuple(map(int, version.split(".")))
    manifest = "base" if target == "kubernetes" and numbers < (0, 5, 0) else "component"
    fresh = copied(target, route_manifest=manifest, keep_comments=numbers < (0, 6, 0))
    assert conflicts(project) == []
    seeds = {file for file in tree(fresh) if owner(file, project.package) == "team"}
    updated, wanted = tree(project), tree(fresh)
    assert {f: t for f, t in updated.items() if f not in seeds} == {
        f: t for f, t in wanted.items() if f not in seeds
    }


@every_target
@every_release
def test_update_keeps_the_edits_of_a_team(
    copied: Callable[..., Project], version: str, target: str
) -> None:
    project = copied(target, f"v{version}")
    edits = work_as_a_team(project, target)

    update(project, LATEST)

    assert conflicts(project) == []
    assert edits.lost_in(project) == []
    project.uv("lock", "--quiet")
    project.run(*GATE)


@every_target
@first_and_last
def test_tests_of_an_edited_service_pass_after_an_update(
    copied: Callable[..., Project], version: str, target: str
) -> None:
    """Those of the template and of the team; they are the same files after each update."""
    project = copied(target, f"v{version}")
    work_as_a_team(project, target)

    update(project, LATEST)

    assert "passed" in project.uv("run", "--quiet", "pytest").stdout


@every_target
@pytest.mark.parametrize("version", [v for v in releases() if v >= "0.4.0"])
def test_changed_line_beside_a_comment_survives_an_update(
    copied: Callable[..., Project], version: str, target: str
) -> None:
    """Teams edit these lines (docs/how-to/customise.md); a changed comment would conflict."""
    project = copied(target, f"v{version}")
    team = Team(project)
    if target == "vm":
        site = f"deploy/vm/nginx/{project.answers['project_slug']}.conf"
        team.replace(site, "client_max_body_size 1m;", "client_max_body_size 20m;")
    else:
        network = f"- FORWARDED_ALLOW_IPS={project.answers['proxy_network']}"
        file = "deploy/kubernetes/base/kustomization.yaml"
        team.replace(file, network, "- FORWARDED_ALLOW_IPS=192.0.2.0/24")
    edits = team.commit()

    update(project, LATEST)

    assert conflicts(project) == []
    assert edits.lost_in(project) == []


@every_target
@first_and_last
def test_update_keeps_the_reference_service_and_its_tests_pass(
    copied: Callable[..., Project], version: str, target: str
) -> None:
    project = copied(target, f"v{version}")
    files = reference_service.write(project)
    commit(project.path, "the team's work")
    before = tree(project)

    update(project, LATEST)

    after = tree(project)
    assert conflicts(project) == []
    assert [file for file in files if after.get(file) != before[file]] == []
    project.uv("lock", "--quiet")
    project.run(*GATE)
    result = project.uv("run", "--quiet", "pytest", "--ignore=tests/serving")
    assert "passed" in result.stdout


@every_target
@every_release
def test_added_line_in_any_file_survives_an_update(
    copied: Callable[..., Project], version: str, target: str
) -> None:
    """Present or in conflict; a line in a moved file of the serving layer is reported."""
    project = copied(target, f"v{version}")
    edits = edit_every_file(project)

    update(project, LATEST)

    lost = [edit.partition(": ")[0] for edit in edits.lost_in(project)]
    reported = project.run(*GATE, check=False).stdout if lost else ""
    assert [file for file in lost if "/serving/" not in file or file not in reported] == []


def edit_every_file(project: Project) -> Edits:
    team = Team(project)
    for file in tree(project):
        if file != ".copier-answers.yml":
            team.append(file, f"# ours: {file}")
    return team.commit()


@every_release
def test_update_keeps_route_edits_and_deletions_of_an_overlay(
    copied: Callable[..., Project], version: str
) -> None:
    """The kinds of each overlay, of one without the operator's and of one that was added."""
    project = copied("kubernetes", f"v{version}")
    overlays = project.path / "deploy/kubernetes/overlays"
    route = project.path / "deploy/kubernetes/base/httproute.yaml"
    had_route = route.exists()
    if had_route:
        route.write_text(route.read_text().replace("name: public", "name: edge"))
    staging = overlays / "staging/kustomization.yaml"
    staging.write_text(re.sub(r"  - \S+/podmonitor\b.*\n", "", staging.read_text()))
    shutil.copytree(overlays / "production", overlays / "qa")
    commit(project.path, "the team's work")
    before = {name: kinds(overlays / name) for name in ("staging", "production", "qa")}

    update(project, LATEST)

    assert conflicts(project) == []
    after = {name: kinds(overlays / name) for name in before}
    if had_route:
        new = {"PrometheusRule"}  # since 0.4.0
        assert {name: found - new for name, found in after.items()} == {
            name: found - new for name, found in before.items()
        }
        assert "name: edge" in route.read_text()
    else:  # 0.1.0 and 0.2.0 had no route yet
        assert all(there <= after[name] for name, there in before.items())
    assert "HTTPRoute" not in kinds(overlays / "local")


def kinds(overlay: Path) -> set[str]:
    return {manifest["kind"] for manifest in kustomize(overlay)}


@every_target
def test_conflict_is_marked_and_fails_the_gate(
    copied: Callable[..., Project], own_template: Path, target: str
) -> None:
    project = copied(target, source=own_template)
    Team(project).replace("Dockerfile", "WORKDIR /app", "WORKDIR /srv/app")
    commit(project.path, "moved")
    for dockerfile in own_template.glob("template/*/Dockerfile.jinja"):
        dockerfile.write_text(dockerfile.read_text().replace("WORKDIR /app", "WORKDIR /opt/app"))

    update(project, next_release(own_template))

    assert conflicts(project) == ["Dockerfile"]
    gate = project.run(*GATE, check=False)
    assert gate.returncode == 1
    assert "Dockerfile" in gate.stdout
    git(project.path, "add", "--all")
    git(project.path, "commit", "--quiet", "--message", "without a look")
    assert project.run(*GATE, check=False).returncode == 1, "committed, it is still caught"


@every_target
def test_updating_to_the_same_version_changes_nothing(
    copied: Callable[..., Project], target: str
) -> None:
    project = copied(target)

    update(project, VcsRef.CURRENT)

    assert git(project.path, "status", "--porcelain") == ""


@pytest.mark.parametrize(("old", "new"), [("kubernetes", "vm"), ("vm", "kubernetes")])
def test_switch_of_target_keeps_the_teams_files(
    copied: Callable[..., Project], old: str, new: str
) -> None:
    project, fresh, before = copied(old), copied(new), copied(old)
    edits = work_as_a_team(project, old)
    theirs = {file for file in tree(project) if file not in tree(before)}

    update(project, VcsRef.CURRENT, deployment=new)

    assert conflicts(project) == []
    gate = project.run(*GATE, check=False)
    edited_and_gone = [file for file in edits.written if file not in tree(project)]
    assert gate.returncode == 1, "the edited files of the old target are not lost in silence"
    assert all(file in gate.stdout for file in edited_and_gone)
    project.run(*GATE, "--keep")
    project.run(*GATE)
    kept = {f"kept/{file}" for file in edited_and_gone}
    assert edited_and_gone
    assert tree(project).keys() == (tree(fresh).keys() - set(edits.deleted)) | theirs | kept

    refreshed = {
        f for f in tree(fresh) if owner(f, project.package) == "template"
    } - edits.written.keys()
    assert {f: tree(project)[f] for f in refreshed} == {f: tree(fresh)[f] for f in refreshed}
    shutil.rmtree(project.path / "kept")
    project.uv("lock", "--quiet")
    assert "passed" in project.uv("run", "--quiet", "pytest").stdout


def behaviour(template: Path, project: Project, target: str) -> dict[str, str]:
    """Whose each file of an untouched project is, by what an update to a release does in which
    every file of the template has one more line."""
    for file in template.glob("template/**/*"):
        if file.is_file():
            file.write_text(file.read_text() + "# one more line\n")
    before = tree(project)
    update(project, next_release(template))
    after = tree(project)
    return {file: "team" if after[file] == before[file] else "template" for file in before}


@every_target
def test_ownership_page_matches_updates(
    copied: Callable[..., Project], own_template: Path, target: str
) -> None:
    project = copied(target, source=own_template)

    behaved = behaviour(own_template, project, target)

    owners = {file: owner(file, project.package) for file in behaved}
    assert behaved == {f: "template" if name == "shared" else name for f, name in owners.items()}
    assert set(owners.values()) == {"team", "template", "shared"}


# ── Problems of an update from every release, reported by the gate ────────────────────────────

OTHER = {"kubernetes": "vm", "vm": "kubernetes"}
OURS = "# ours"


def of_target(project: Project, target: str) -> list[str]:
    """Four files that only this target has, in every release."""
    slug = project.answers["project_slug"]
    return {
        "kubernetes": [
            "deploy/kubernetes/base/deployment.yaml",
            "deploy/kubernetes/base/service.yaml",
            "deploy/kubernetes/overlays/production/kustomization.yaml",
            "deploy/kubernetes/overlays/staging/kustomization.yaml",
        ],
        "vm": [
            "deploy/vm/compose.yaml",
            "deploy/vm/gunicorn.conf.py",
            f"deploy/vm/systemd/{slug}.service",
            f"deploy/vm/systemd/{slug}.socket",
        ],
    }[target]


def lost_edits(project: Project) -> list[str]:
    """Return the files whose edits the gate misses."""
    output = project.run(*GATE, check=False).stdout
    return re.findall("^(.+): an update lost your edits", output, re.M)


@every_release_and_one_target
def test_edits_in_commits_of_copy_update_merge_and_move_are_found(
    copied: Callable[..., Project], version: str, target: str
) -> None:
    project = copied(target, f"v{version}")
    path, files = project.path, of_target(project, target)
    first, second, third, fourth = files
    Team(project).append(first, OURS)
    git(path, "commit", "--quiet", "--all", "--amend", "--no-edit")
    git(path, "switch", "--quiet", "--create", "update")
    update(project, LATEST)
    Team(project).append(second, OURS)
    commit(path, "updated and edited, as a squashed pull request is")
    git(path, "switch", "--quiet", "main")
    Team(project).append("README.md", "Meanwhile.")
    commit(path, "meanwhile")
    git(path, "merge", "--quiet", "--no-ff", "--no-commit", "update")
    Team(project).append(third, OURS)
    commit(path, "merged and edited")
    (path / "services/ledger").mkdir(parents=True)
    for name in git(path, "ls-tree", "--name-only", "HEAD").splitlines():
        git(path, "mv", name, f"services/ledger/{name}")
    moved = Project(path / "services/ledger")
    Team(moved).append(fourth, OURS)
    commit(path, "moved and edited")
    assert lost_edits(moved) == []

    update(moved, VcsRef.CURRENT, deployment=OTHER[target])

    assert lost_edits(moved) == files
    commit(path, "switched")
    assert lost_edits(moved) == files


@every_release_and_one_target
def test_update_that_switches_the_target_lists_only_edited_files(
    copied: Callable[..., Project], version: str, target: str
) -> None:
    """Earlier releases have no record of rendered files."""
    project = copied(target, f"v{version}")
    _, file, *_ = of_target(project, target)
    Team(project).append(file, OURS)
    commit(project.path, "the team's work")

    update(project, LATEST, deployment=OTHER[target])

    assert lost_edits(project) == [file]


@pytest.mark.parametrize("version", [version for version in releases() if version < "0.5"])
def test_edits_of_gunicorn_conf_survive_and_missing_lines_are_reported(
    copied: Callable[..., Project], version: str
) -> None:
    """The conflict is resolved with the team's lines, which name a deleted module."""
    project = copied("vm", f"v{version}")
    team, conf = Team(project), "deploy/vm/gunicorn.conf.py"
    team.replace(conf, "timeout = graceful_timeout + 10", "timeout = 120")
    team.replace(conf, "workers = worker_count()  # WEB_CONCURRENCY overrides it", "workers = 4")
    team.append(conf, "", "", "def post_fork(_, worker):", '    worker.log.info("forked")')
    team.append(f"src/{project.package}/export.py", "import orjson", "", "print(orjson.dumps({}))")
    edits = team.commit()
    ours = (project.path / conf).read_text()

    update(project, LATEST)

    assert edits.lost_in(project) == []
    assert conflicts(project) == [conf]
    moved = re.sub("worker_class = .*", 'worker_class = "uvicorn_worker.UvicornWorker"', ours)
    for text in (ours, moved):
        (project.path / conf).write_text(text)
        git(project.path, "add", "--all")
        output = project.run(*GATE, check=False).stdout
        assert f"src/{project.package}/export.py: it needs orjson, which" in output
        assert f"{conf}: serving.capacity is serving.process.capacity now" in output
    assert f"{conf}: it needs uvicorn-worker, which" in output
    project.uv("add", "--quiet", "orjson", "uvicorn-worker")
    assert "it needs" not in project.run(*GATE, check=False).stdout


@every_release
def test_recopy_that_overwrote_edits_is_reported_with_their_names(
    copied: Callable[..., Project], version: str
) -> None:
    """`copier recopy` renders all files again, including team-owned ones."""
    project = copied("vm", f"v{version}")
    edited = [f"src/{project.package}/app.py", "README.md", *of_target(project, "vm")[:2]]
    for file in edited:
        Team(project).append(file, OURS)
    commit(project.path, "the team's work")

    copier.run_recopy(project.path, vcs_ref=LATEST, defaults=True, overwrite=True, quiet=True)

    assert {*edited} <= {*lost_edits(project)}


@every_target
def test_updates_through_all_releases_pass_the_gate(
    copied: Callable[..., Project], target: str
) -> None:
    first, *others = [f"v{version}" for version in releases()]
    project = copied(target, first)
    for ref in [*others, LATEST]:
        update(project, ref)
        commit(project.path, f"updated to {ref}")

    assert project.run(*GATE).stdout == ""


@every_release
def test_renamed_service_is_reported_with_the_files_left_behind(
    copied: Callable[..., Project], version: str
) -> None:
    project = copied("vm", f"v{version}")

    update(project, LATEST, project_slug="books", package_name="books")

    gate = project.run(*GATE, check=False)
    assert gate.returncode == 1
    assert f"src/{project_package(NAME)}: package_name is books now: " in gate.stdout
    assert "app.py: it uses the name zebra-9-ledger, but project_slug is books now" in gate.stdout


def project_package(name: str) -> str:
    return name.lower().replace(" ", "_")


@every_release_and_one_target
def test_manually_edited_target_is_refused(
    copied: Callable[..., Project], version: str, target: str
) -> None:
    project = copied(target, f"v{version}")
    answers = project.path / ".copier-answers.yml"
    text = answers.read_text()
    answers.write_text(text.replace(f"deployment: {target}", f"deployment: {OTHER[target]}"))
    commit(project.path, "edited by hand")

    update(project, LATEST)

    gate = project.run(*GATE, check=False)
    assert gate.returncode == 1
    assert ".copier-answers.yml: deployment was edited by hand" in gate.stdout


@every_release
def test_renamed_or_added_overlay_without_a_hostname_fails_the_gate(
    copied: Callable[..., Project], version: str
) -> None:
    project = copied("kubernetes", f"v{version}")
    overlays = "deploy/kubernetes/overlays"
    git(project.path, "mv", f"{overlays}/staging", f"{overlays}/qa")
    shutil.copytree(project.path / overlays / "production", project.path / overlays / "demo")
    commit(project.path, "renamed and added")

    update(project, LATEST)

    output = project.run(*GATE, check=False).stdout
    named = re.findall(r"^(\S+)/kustomization.yaml: HTTPRoute \S+ has no hostname", output, re.M)
    wanted = []
    for overlay in ("demo", "production", "qa"):
        (route,) = of_kind("HTTPRoute", kustomize(project.path / overlays / overlay))
        if not route["spec"].get("hostnames"):
            wanted.append(f"{overlays}/{overlay}")
    assert named == wanted
    assert len(wanted) == (2 if version in ("0.1.0", "0.2.0") else 0)


def test_contract_matches_copier_yml_and_the_changelog() -> None:
    assert contract.faults() == []


# ── Tests of the checks: each of these mistakes fails ─────────────────────────────────────────


def test_renamed_choice_is_reported(own_template: Path) -> None:
    copier_yml = own_template / "copier.yml"
    copier_yml.write_text(copier_yml.read_text().replace('": vm\n', '": host\n'))

    found = contract.faults(own_template)

    assert any("tests/contract.json does not match copier.yml" in fault for fault in found)
    assert any("deployment lost the choice vm" in fault for fault in found)
    assert any("CHANGELOG.md doesn't mention it" in fault for fault in found)


def test_moved_template_file_is_reported(
    copied: Callable[..., Project], own_template: Path
) -> None:
    project = copied("vm", source=own_template)
    edits = edit_every_file(project)
    (source,) = own_template.glob("template/*/deploy/vm/gunicorn.conf.py.jinja")
    source.rename(source.with_name("gunicorn_config.py.jinja"))

    update(project, next_release(own_template))

    assert edits.lost_in(project) == [
        "deploy/vm/gunicorn.conf.py: # ours: deploy/vm/gunicorn.conf.py"
    ]


def test_removed_team_file_rule_is_reported(
    copied: Callable[..., Project], own_template: Path
) -> None:
    copier_yml = own_template / "copier.yml"
    copier_yml.write_text(copier_yml.read_text().replace("    /README.md\n", ""))
    commit(own_template, "a dropped seed rule")
    git(own_template, "tag", "--force", LATEST)
    project = copied("vm", source=own_template)

    behaved = behaviour(own_template, project, "vm")

    assert behaved["README.md"] != owner("README.md", project.package)
