"""The commands of the pages are run, and have the documented effect."""

import re
from pathlib import Path

import httpx2
import pytest

from ..harness.pages import commands, follow, for_other_target, reader
from ..harness.project import UV, Project
from ..harness.server import Server, free_port, launch, serve
from ..harness.template import LATEST, ROOT, TARGETS, commit, git, next_release, render
from ..harness.update import Team, conflicts, tree

DOCS = ROOT / "docs"
FOLLOWED = ("how-to/create.md", "how-to/update.md", "how-to/switch.md", "how-to/adopt.md")
TUTORIALS = ("tutorials/on-a-vm.md", "tutorials/on-kubernetes.md")
FOLLOWED_TOO = (*TUTORIALS, "how-to/customise.md", "how-to/opt-out.md")
"""Pages that tests/docs/test_tutorials.py runs."""
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted(DOCS.rglob("*.md"))]

SHORTER = {"PYTEST_ADDOPTS": "--ignore=tests/serving/test_server.py"}
"""Without server tests, which take ten seconds each: rendering/test_projects.py runs them."""

every_page = pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
every_target = pytest.mark.parametrize("target", TARGETS)


def told(name: str, target: str = "kubernetes") -> str:
    """Return a page for a target."""
    page = (DOCS / name).read_text()
    return page if target == "kubernetes" else for_other_target(page)


def service(
    template: Path, directory: Path, target: str = "kubernetes", ref: str = LATEST
) -> Project:
    """Return an existing service, in the environment of a reader."""
    project = Project(
        directory / "orders-api", environment=reader(directory / "home", template) | SHORTER
    )
    render(template, project.path, {"project_name": "Orders API", "deployment": target}, ref)
    git(project.path, "init", "--quiet", "--initial-branch", "main")
    commit(project.path, "copied")
    return project


def release_news(template: Path) -> None:
    """Make a release after the latest, with a change in each kind of file."""
    news = {
        "template/.gitignore": (".ruff_cache/\n", ".ruff_cache/\n.news/\n"),
        "template/pyproject.toml.jinja": (r'("fastapi.*>=[\d.]+)', r"\1,<999"),
        "template/*/Dockerfile.jinja": (r"\Z", "# news\n"),
        "template/src/*/serving/lifecycle/health.py": (r"\Z", "# news\n"),
    }
    for pattern, (old, new) in news.items():
        files = list(template.glob(pattern))
        assert files, pattern
        for file in files:
            text, changed = re.subn(old, new, file.read_text())
            assert changed == 1, file
            file.write_text(text)
    next_release(template)


def has_news(project: Project) -> bool:
    now = tree(project)
    places = ("Dockerfile", f"src/{project.package}/serving/lifecycle/health.py")
    return (
        all(now[place].endswith("# news\n") for place in places)
        and "\n.news/\n" in now[".gitignore"]
        and ",<999" in now["pyproject.toml"]
    )


# ── Every command is run, or says why not ─────────────────────────────────────────────────────


@every_page
def test_every_command_is_run_or_has_a_reason_not_to(page: Path) -> None:
    left_out = [block for block in commands(page.read_text()) if block.kind != "not run"]

    assert left_out == [] or page in [DOCS / name for name in FOLLOWED + FOLLOWED_TOO]


@every_page
def test_links_of_pages_exist(page: Path) -> None:
    links = re.findall(r"\]\((?!https?:)([^)#]+)", page.read_text())

    assert [link for link in links if not (page.parent / link).exists()] == []


PROGRAMS = {"copier", "docker", "git", "kubectl", "make", "ssh", "uv"}
"""Programs that a machine does not have by default."""


@pytest.mark.parametrize("page", ["how-to/create.md", *TUTORIALS])
def test_required_programs_are_listed_first(page: str) -> None:
    text = (DOCS / page).read_text()
    (needs,) = re.findall(r"^You need .+?\n\n", text, re.MULTILINE | re.DOTALL)
    scripts = "".join(block.text for block in commands(text))
    taken = PROGRAMS & set(re.findall(r"^\w+", scripts, re.MULTILINE))
    if "make validate" in scripts:
        (validate,) = ROOT.glob("template/*kubernetes*/scripts/validate.jinja")
        (needed,) = re.findall(r"^for needed in (.+); do$", validate.read_text(), re.MULTILINE)
        taken |= set(needed.split())

    assert {program for program in taken if program not in needs.lower()} == set()


@pytest.mark.parametrize(
    ("page", "complaint"),
    [
        ("```bash\nfalse | true\n```\n", "exit 1"),
        ("```bash\nexit 0\n```\n\n```bash\ntrue\n```\n", "the session ended with"),
        (
            "```bash\necho one two\n```\n\n```text\none … three\n```\n",
            "'one … three' is not printed",
        ),
        ("<!-- exit 1 -->\n```bash\ntrue\n```\n", "exit 0 instead of 1"),
        ("<!-- stopped at: ready -->\n```bash\necho broken\n```\n", "broken"),
        ("<!-- not run: never -->\n```bash\ntrue\n```\n", "nothing to do"),
    ],
)
def test_page_with_a_wrong_command_or_output_fails(
    tmp_path: Path, page: str, complaint: str
) -> None:
    with pytest.raises(AssertionError, match=complaint):
        follow(page, Project(tmp_path, environment={"HOME": str(tmp_path)}))


@pytest.mark.parametrize(
    ("page", "complaint"),
    [
        ("```sh\nls\n```\n", "a block of sh"),
        ("```\nls\n```\n", "a block of nothing"),
        ("- so:\n  ```bash\n  ls\n  ```\n", "the start of a line"),
        ("~~~bash\nls\n~~~\n", "the start of a line"),
        ("<!-- skip it -->\n```bash\nls\n```\n", "this note mean: skip it"),
        ("<!-- not run: -->\n```bash\nls\n```\n", "this note mean: not run:"),
    ],
)
def test_unmarked_commands_are_reported(page: str, complaint: str) -> None:
    with pytest.raises(ValueError, match=complaint):
        commands(page)


# ── Create, update, switch ────────────────────────────────────────────────────────────────────


@every_target
def test_create(template: Path, tmp_path: Path, target: str) -> None:
    port = {"UVICORN_PORT": str(free_port())}
    newcomer = Project(tmp_path, environment=reader(tmp_path / "home", template) | SHORTER | port)

    follow(told("how-to/create.md", target), newcomer)

    project = Project(tmp_path / "orders-api")
    assert git(project.path, "status", "--porcelain") == ""
    assert "uv.lock" in tree(project)
    assert project.answers["_commit"] == LATEST
    assert project.answers["deployment"] == target


@every_target
def test_update(own_template: Path, tmp_path: Path, target: str) -> None:
    project = service(own_template, tmp_path, target)
    project.uv("lock", "--quiet")
    team = Team(project)
    (line,) = re.findall(r"^.* has 30 s to finish.*$", tree(project)["deploy/README.md"], re.M)
    team.replace("deploy/README.md", line, line.replace("finish", "finish, which is plenty"))
    team.append("README.md", "Ask in #orders.")
    edits = team.commit()
    release_news(own_template)

    follow(told("how-to/update.md"), project)

    *_, automatic = told("how-to/update.md").split("\n## ")
    assert set(re.findall(r"`([^`]+[.](?:yml|json))`", automatic)) <= tree(project).keys()
    assert has_news(project)
    assert conflicts(project) == []
    assert project.answers["_commit"] == "v9999.1.0"
    assert "has 60 s to finish |" in tree(project)["deploy/README.md"], "the template's side"
    del edits.written["deploy/README.md"]
    assert edits.lost_in(project) == []


@pytest.mark.parametrize(("old", "new"), [("kubernetes", "vm"), ("vm", "kubernetes")])
def test_switch(template: Path, tmp_path: Path, old: str, new: str) -> None:
    project = service(template, tmp_path, old)
    project.uv("lock", "--quiet")
    team = Team(project)
    edited = {
        "kubernetes": "deploy/kubernetes/overlays/production/kustomization.yaml",
        "vm": "deploy/vm/gunicorn.conf.py",
    }[old]
    team.append(edited, "# ours")
    team.append(f"deploy/{old}/ours.yaml", "# ours")
    commit(project.path, "the team's work")
    theirs = tree(project)[edited]

    follow(told("how-to/switch.md", old), project)

    assert git(project.path, "status", "--porcelain") == ""
    assert project.answers["deployment"] == new
    deployed = {file for file in tree(project) if file.startswith("deploy/")}
    assert {file for file in deployed if file.startswith(f"deploy/{old}/")} == {
        f"deploy/{old}/ours.yaml"
    }
    assert any(file.startswith(f"deploy/{new}/") for file in deployed)
    assert git(project.path, "show", f"HEAD~1:kept/{edited}") == theirs


# ── Refusals of Copier: message and remedy in the page's table ────────────────────────────────


def refused(project: Project, says: str) -> None:
    result = project.run("copier", "update", "--defaults", check=False)
    assert result.returncode != 0
    assert says in result.stdout
    assert f"| `{says}` |" in told("how-to/update.md")


def mend(project: Project, pattern: str, new: str) -> None:
    """Change a line of the answers file, as on the page, and commit it."""
    file = project.path / ".copier-answers.yml"
    text, mended = re.subn(pattern, new, file.read_text(), flags=re.MULTILINE)
    assert mended == 1
    file.write_text(text)
    commit(project.path, "mended")


def test_a_dirty_tree(template: Path, tmp_path: Path) -> None:
    project = service(template, tmp_path)
    Team(project).append("README.md", "Ask in #orders.")

    refused(project, "Destination repository is dirty")


def test_a_copy_from_after_the_latest_release(own_template: Path, tmp_path: Path) -> None:
    commit(own_template, "after the release")
    project = service(own_template, tmp_path, ref="HEAD")

    refused(project, "You are downgrading")
    project.run("copier", "update", "--defaults", "--vcs-ref=HEAD")


@pytest.mark.filterwarnings("ignore:Dirty template changes")
def test_a_copy_from_what_was_never_committed(own_template: Path, tmp_path: Path) -> None:
    (own_template / "uncommitted").touch()
    project = service(own_template, tmp_path, ref="HEAD")
    (own_template / "uncommitted").unlink()

    refused(project, "Unknown revision")
    mend(project, r"^(_commit: v[\d.]+)-.*$", r"\1")
    project.run("copier", "update", "--defaults")


def test_a_copy_from_a_relative_path(own_template: Path, tmp_path: Path) -> None:
    project = service(own_template, tmp_path)
    mend(project, "^_src_path: .*$", "_src_path: template")

    refused(project, "Local template must be a directory")
    mend(project, "^_src_path: .*$", f"_src_path: {own_template}")
    project.run("copier", "update", "--defaults")


def test_a_new_question_without_a_default(own_template: Path, tmp_path: Path) -> None:
    project = service(own_template, tmp_path)
    with (own_template / "copier.yml").open("a") as copier_yml:
        copier_yml.write("region:\n  type: str\n  help: Where in the world?\n")
    next_release(own_template)

    refused(project, 'Question "region" is required')
    project.run("copier", "update", "--defaults", "-d", "region=north")


# ── Adopt ─────────────────────────────────────────────────────────────────────────────────────

GROWN = {
    "main.py": """\
import os
from datetime import datetime
from typing import Optional

from dateutil import parser
from fastapi import FastAPI, HTTPException, Query
from pydantic import BaseModel
from slugify import slugify

app = FastAPI(title="Orders", version="2.3")

ORDERS = {1: {"id": 1, "item": "Blue Lamp"}, 2: {"id": 2, "item": "Œuvre"}}


class Order(BaseModel):
    item: str
    placed: str
    note: Optional[str] = None


@app.get("/")
def index():
    return {"service": "orders", "greeting": os.environ.get("GREETING", "hello")}


@app.get("/health")
def health():
    return "fine"


@app.get("/orders")
async def list_orders(limit: int = Query(default=10, le=100)):
    return list(ORDERS.values())[:limit]


@app.get("/orders/{order_id}")
async def get_order(order_id: int):
    if order_id not in ORDERS:
        raise HTTPException(status_code=404, detail="No such order")
    return ORDERS[order_id]


@app.post("/orders", status_code=201)
async def create_order(order: Order):
    placed: datetime = parser.parse(order.placed)
    return {"slug": slugify(order.item), "year": placed.year, "note": order.note}


@app.delete("/orders/{order_id}", status_code=204)
def delete_order(order_id: int):
    ORDERS.pop(order_id, None)
""",
    "test_main.py": """\
from fastapi.testclient import TestClient
from main import app

client = TestClient(app)


def test_an_order():
    assert client.get("/orders/1").json()["item"] == "Blue Lamp"


def test_no_such_order():
    assert client.get("/orders/7").status_code == 404
""",
    "requirements.txt": """\
fastapi==0.115.0
uvicorn[standard]
python-dateutil==2.9.0.post0
python-slugify>=8
""",
    "Dockerfile": """\
FROM python:3.11
COPY . /app
WORKDIR /app
RUN pip install -r requirements.txt
CMD uvicorn main:app --host 0.0.0.0 --port 80
""",
    "README.md": "# Orders\n\nAsk in #orders before you touch it.\n",
    ".gitignore": "__pycache__/\nvenv/\norders.db\n",
}

ASKED: tuple[tuple[str, str, object], ...] = (
    ("GET", "/", None),
    ("GET", "/health", None),
    ("GET", "/orders", None),
    ("GET", "/orders?limit=1", None),
    ("GET", "/orders?limit=101", None),
    ("GET", "/orders/2", None),
    ("GET", "/orders/7", None),
    ("GET", "/orders/seven", None),
    ("GET", "/nowhere", None),
    ("PUT", "/orders", {}),
    ("POST", "/orders", {"item": "Green Lamp", "placed": "3 May 2026"}),
    ("POST", "/orders", {"item": "Green Lamp"}),
    ("DELETE", "/orders/7", None),
)


def answers(server: Server) -> list[tuple[object, ...]]:
    """Return status, media type and body of responses, and the schema."""
    found: list[tuple[object, ...]] = []
    url = f"http://127.0.0.1:{server.port}"
    with httpx2.Client(base_url=url, trust_env=False, timeout=60) as client:
        for method, path, body in ASKED:
            response = client.request(method, path, json=body)
            kind = response.headers.get("content-type")
            found.append((method, path, response.status_code, kind, response.text))
        paths = client.get("/openapi.json").json()["paths"]
        wanted = {path: paths[path] for path in ("/", "/health", "/orders", "/orders/{order_id}")}
        found += [
            (path, method, operation["operationId"], sorted(operation["responses"]))
            for path, operations in wanted.items()
            for method, operation in operations.items()
        ]
    return found


def test_adopt(own_template: Path, tmp_path: Path) -> None:
    """A single module; responses do not change. updates/test_adopt_*.py adopt larger services."""
    names = {"NAME": "Orders API", "PACKAGE": "orders_api"}
    environment = reader(tmp_path / "home", own_template) | SHORTER | names
    project = Project(tmp_path / "work/orders", environment=environment)
    for name, text in GROWN.items():
        Team(project).append(name, *text.splitlines())
    git(project.path, "init", "--quiet", "--initial-branch", "main")
    commit(project.path, "a service")
    before = answers_of_old(project, tmp_path / "old.log")

    follow(told("how-to/adopt.md"), project, "requirements.txt")

    assert git(project.path, "status", "--porcelain") == ""
    with serve(project, tmp_path / "new.log", env={"DOCS": "true"}) as server:
        assert answers(server) == before
    now = tree(project)
    assert {"uv.lock", "Dockerfile", ".dockerignore", "deploy/README.md"} <= now.keys()
    assert not {"main.py", "test_main.py", "requirements.txt"} & now.keys()
    assert "pip install" not in now["Dockerfile"]

    release_news(own_template)
    project.run("copier", "update", "--defaults")

    assert has_news(project)
    project.run("python3", "scripts/check_update.py")
    updated = tree(project)
    ours = ("src/orders_api/main.py", "src/orders_api/app.py", "tests/test_main.py", "README.md")
    assert {name: updated[name] for name in ours} == {name: now[name] for name in ours}
    assert updated[".gitignore"].endswith("orders.db\n")
    assert '"python-dateutil==2.9.0.post0",' in updated["pyproject.toml"]


def test_each_variable_of_the_serving_layer_is_listed_as_reserved() -> None:
    (settings,) = ROOT.glob("template/src/*/serving/settings.py")
    fields = re.findall(r"^    (\w+): ", settings.read_text().split("(BaseSettings):")[1], re.M)
    taken = told("how-to/adopt.md").split("\n## Reserved names\n")[1].split("\n## ")[0]

    assert "environment" in fields
    assert [name for name in fields if f"`{name.upper()}`" not in taken] == []


def answers_of_old(project: Project, log: Path) -> list[tuple[object, ...]]:
    """Return the responses of the service before adoption, with its own requirements."""
    port = free_port()
    run = ("run", "--no-project", "--with-requirements", "requirements.txt")
    project.uv(*run, "python", "--version")  # installs them, without a timeout
    command = [UV, *run, "uvicorn"]
    env = {"PYTHONDONTWRITEBYTECODE": "1"}  # the service has no .gitignore
    with launch(project, [*command, "main:app", "--port", str(port)], log, port, env) as server:
        server.wait_for_log("Application startup complete")
        return answers(server)
