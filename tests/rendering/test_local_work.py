"""Local development with the commands of the README."""

import os
import re
import shutil
import subprocess
from pathlib import Path

import httpx2
import pytest

from ..conftest import Render
from ..harness.project import UV, Project
from ..harness.server import Server, free_port, launch, serve
from ..harness.template import commit, git

DIGEST = "registry.example.com/team/ledger@sha256:" + "0123456789abcdef" * 4
PATH = os.pathsep.join([str(Path(UV).parent), os.environ["PATH"]])


def make(project: Project, *arguments: str, check: bool = True) -> str:
    """Return the output of `make` in a project."""
    return project.run("make", *arguments, env={"PATH": PATH}, check=check).stdout


@pytest.fixture
def own(project: Project, tmp_path: Path) -> Project:
    """A project that a test may change, with its virtual environment."""
    environment = shutil.ignore_patterns(".venv", ".mypy_cache", ".ruff_cache")
    path = Path(shutil.copytree(project.path, tmp_path / "own", ignore=environment))
    own = Project(path)
    commit(path, "copied")
    return own


def replace(file: Path, old: str, new: str) -> None:
    text = file.read_text()
    assert old in text
    file.write_text(text.replace(old, new))


def test_readme_and_make_help_list_each_command(project: Project) -> None:
    listed = re.findall(r"^(\w+) +\S", make(project), re.MULTILINE)
    readme = (project.path / "README.md").read_text()

    assert listed[0] == "help"
    assert [name for name in listed[1:] if f"make {name}" not in readme] == []
    assert {"run", "test", "lint", "format", "validate", "image", "load", "compression"} <= {
        *listed
    }


VALIDATED_BY = ("kubectl", "nginx", "promtool", "systemd-analyze")


def test_lint_and_validate_pass(project: Project) -> None:
    if missing := [tool for tool in VALIDATED_BY if not find(tool)]:
        pytest.skip(f"nothing is validated without {', '.join(missing)}")

    make(project, "lint")
    make(project, "validate")


def test_missing_tool_of_validate_prints_one_line(project: Project, tmp_path: Path) -> None:
    for tool in ("bash", "dirname", "make"):
        (tmp_path / tool).symlink_to(shutil.which(tool) or "")

    result = project.run("make", "validate", env={"PATH": str(tmp_path)}, check=False)

    assert result.returncode != 0
    [output] = [line for line in result.stdout.splitlines() if line.startswith("validate: ")]
    assert output == "validate: uv is missing; see the requirements at the top of scripts/validate"


def find(tool: str) -> str | None:
    return shutil.which(tool, path=f"{PATH}{os.pathsep}/usr/sbin")


ALERTS = "deploy/kubernetes/components/alerts/prometheusrule.yaml"


def test_validate_fails_for_a_fault(own: Project, target: str) -> None:
    slug = own.answers["project_slug"]
    mistakes = {
        "kubernetes": [
            ("deploy/kubernetes/base/deployment.yaml", "  strategy:", "  strateggy:", "strateggy"),
            ("deploy/kubernetes/base/kustomization.yaml", "service.yaml", "svc.yaml", "svc.yaml"),
            (ALERTS, "histogram_quantile(", "histogram_quantil(", "histogram_quantil"),
            ("deploy/kubernetes/deploy", '"$directory"', "$directory", "SC2086"),
        ],
        "vm": [
            (f"deploy/vm/systemd/{slug}.service", "User=", "Usr=", "Usr"),
            (f"deploy/vm/systemd/{slug}.service", "CapabilityBoundingSet=\n", "", "exposure"),
            (f"deploy/vm/nginx/{slug}.conf", "proxy_pass ", "proxy_pas ", "proxy_pas"),
            ("deploy/vm/gunicorn.conf.py", "workers = ", "workers = -", "workers"),
            (f"deploy/vm/prometheus/{slug}.rules.yml", "for: 2m", "fro: 2m", "fro"),
            ("deploy/vm/deploy", '"$host"', "$host", "SC2086"),
        ],
    }[target]
    mistakes.append(
        ("Dockerfile", "-slim-trixie\nLABEL", "-slim-trixie\nRUN cd /\nLABEL", "DL3003")
    )
    for name, right, wrong, complaint in mistakes:
        file = own.path / name
        replace(file, right, wrong)
        result = own.run("make", "validate", env={"PATH": PATH}, check=False)
        git(own.path, "checkout", "--", name)
        assert result.returncode != 0, (name, result.stdout)
        assert complaint in result.stdout, name


def test_make_run_reads_dot_env(own: Project, tmp_path: Path) -> None:
    port = free_port()
    shutil.copy(own.path / ".env.example", own.path / ".env")
    replace(own.path / ".env", "METRICS_PORT=9090", "METRICS_PORT=0")
    own.uv("sync", "--quiet")
    environment = {"PATH": PATH, "UVICORN_PORT": str(port)}
    running = Project(own.path, own.python, environment)

    with launch(running, ["make", "run"], tmp_path / "log", port) as server:
        server.wait_until_ready()
        url = f"http://127.0.0.1:{port}/health/live"
        assert httpx2.get(url, trust_env=False).json() == {"status": "live"}

    assert "--env-file .env " in make(own, "--dry-run", "run")
    (own.path / ".env").unlink()
    assert "--env-file" not in make(own, "--dry-run", "run")


def test_setting_missing_in_env_example_fails_the_tests(own: Project) -> None:
    settings = own.path / f"src/{own.package}/settings.py"
    settings.write_text(settings.read_text() + '\n    greeting: str = "hello"\n')
    test = ("run", "--quiet", "pytest", "tests/test_env_example.py")

    assert "GREETING" in own.uv(*test, check=False).stdout

    with (own.path / ".env.example").open("a") as example:
        example.write("GREETING=hullo\n")
    assert own.uv(*test, check=False).returncode == 1, "another default"
    replace(own.path / ".env.example", "hullo", "hello")
    own.uv(*test)


def test_ignored_vulnerability_without_expiry_date_fails_the_tests(own: Project) -> None:
    ignored = own.path / ".trivyignore.yaml"
    entry = "vulnerabilities:\n  - id: CVE-2026-0001\n    statement: not reachable\n"
    test = ("run", "--quiet", "pytest", "tests/test_trivyignore.py")

    replace(ignored, "vulnerabilities: []\n", entry)
    assert own.uv(*test, check=False).returncode == 1

    ignored.write_text(ignored.read_text() + "    expired_at: 2027-01-31\n")
    own.uv(*test)


def test_hooks_pass_and_fail_for_a_fault(own: Project) -> None:
    hooks = (f"{UV}x", "prek", "run", "--all-files", "--show-diff-on-failure")

    assert "Failed" not in own.run(*hooks, env={"PATH": PATH}).stdout

    settings = own.path / f"src/{own.package}/settings.py"
    settings.write_text(settings.read_text() + "\n    greeting: strr\n")
    (own.path / "scripts/validate").write_text("#!/bin/bash\necho $1\n")
    result = own.run(*hooks, env={"PATH": PATH}, check=False)
    failed = re.findall(r"^(\S.*?)\.+Failed$", result.stdout, re.MULTILINE)
    assert {"ruff check", "mypy", "shellcheck"} <= {*failed}


# ── make load, make compression ───────────────────────────────────────────────────────────────

ROUTES = """

@app.get("/broken")
def broken() -> None:
    raise RuntimeError("broken")


@app.get("/orders/{number}")
def order(number: int) -> dict[str, int]:
    return {"number": number}


@app.get("/orders")
def orders(limit: int) -> list[int]:
    return list(range(limit))


def text(content: str | bytes, media_type: str = "text/plain", **headers: str) -> Response:
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    return Response(content, media_type=media_type, headers=named)


app.get("/picture")(lambda: text(b"x" * 2000, "image/png"))
app.get("/untouched")(lambda: text("x" * 2000, cache_control="no-transform"))
app.get("/now")(lambda: text(f"{time.perf_counter_ns()} " * 200))
app.get("/lines")(lambda: StreamingResponse(iter(["line " * 500] * 3), media_type="text/plain"))


@app.get("/events")
async def events() -> StreamingResponse:
    async def forever() -> AsyncIterator[str]:
        while True:
            yield "data: tick\\n\\n"
            await asyncio.sleep(0.01)

    return StreamingResponse(forever(), media_type="text/event-stream")
"""
SLOW = """

@app.get("/slow")
async def slow() -> None:
    await asyncio.sleep(0.7)
"""
# Requested by the same task, because locust selects tasks randomly.
AND_SLOW = """        self.client.get("/slow")
"""
# Faulty responses: bodies that differ by coding, or do not match their Content-Encoding.
WRONG = """

@app.get("/other")
def other(request: Request) -> Response:
    packed = "br" in request.headers.get("accept-encoding", "")
    return text("x" * 2000 if packed else "y" * 2000)
"""
UNREADABLE = """

app.get("/unreadable")(lambda: text("x" * 2000, content_encoding="gzip"))
"""
IMPORTS = """
import asyncio
import time
from collections.abc import AsyncIterator
from fastapi import Request, Response
from fastapi.responses import StreamingResponse
"""


def with_routes(own: Project, routes: str) -> Project:
    """A project with more routes."""
    file = own.path / f"src/{own.package}/app.py"
    file.write_text(file.read_text() + IMPORTS + routes)
    own.uv("sync", "--quiet")
    return own


def load(project: Project, url: str, check: bool = True) -> subprocess.CompletedProcess[str]:
    few = ("USERS=4", "SECONDS=2")
    return project.run("make", "load", f"URL={url}", *few, env={"PATH": PATH}, check=check)


def address(server: Server) -> str:
    return f"http://127.0.0.1:{server.port}"


def test_make_load_runs_the_users_and_fails_if_a_request_fails(
    own: Project, tmp_path: Path
) -> None:
    with_routes(own, ROUTES + SLOW)
    report = own.path / "build/load.html"
    locustfile = own.path / "tests/load/locustfile.py"
    replace(locustfile, "between(0.5, 1.5)", "between(0, 0.1)")
    with locustfile.open("a") as file:
        file.write(AND_SLOW)
    with serve(own, tmp_path / "log") as server:
        output = load(own, address(server)).stdout

        requested = ("/large-response", "/slow")
        answered = [line for line in server.requests if line["route"] in requested]
        counted = re.findall(r"Aggregated +(\d+) +0\(0.00%\)", output)
        assert int(counted[-1]) == len(answered), "no request is cut off"
        assert len(counted) > 1, "while it runs"
        assert all(f'"{path}"' in report.read_text() for path in requested)
        assert report.read_text().count('"current_rps": ["') > 1, "points of a plot"
        report.unlink()

        replace(locustfile, "/large-response", "/broken")
        failed = load(own, address(server), check=False)
        assert failed.returncode != 0
        assert re.search(r"GET /broken: .*500", failed.stdout)
        assert "/broken" in report.read_text()

        locustfile.write_text(re.sub(r"self.client.get\(.*\)", "...", locustfile.read_text()))
        idle = load(own, address(server), check=False)
        assert idle.returncode != 0
        assert "No request was sent.\n" in idle.stdout

        locustfile.unlink()
        without_users = load(own, address(server), check=False)
        assert without_users.returncode != 0
        assert "load.py: tests/load/locustfile.py is missing" in without_users.stdout

    assert git(own.path, "status", "--porcelain", "--", "build") == ""


@pytest.mark.parametrize(
    ("url", "line"),
    [
        ("http://127.0.0.1:{port}", "cannot connect (Connection refused)"),
        ("http://nowhere.invalid", "cannot connect ("),
        ("localhost:8000", "not an address such as http://127.0.0.1:8000"),
        ("http://localhost:port", "not an address such as http://127.0.0.1:8000"),
    ],
)
def test_make_load_without_a_service_prints_one_line(project: Project, url: str, line: str) -> None:
    url = url.format(port=free_port())
    result = load(project, url, check=False)

    assert result.returncode != 0
    [output] = [text for text in result.stdout.splitlines() if text.startswith("load.py: ")]
    assert output.startswith(f"load.py: {url}: {line}")
    assert "Traceback" not in result.stdout


def test_locust_is_installed_for_make_load_only(own: Project) -> None:
    own.uv("sync", "--quiet")
    load(own, "nowhere", check=False)
    export = ("export", "--quiet", "--locked", "--no-hashes")

    assert not Path(own.program("locust")).exists()
    assert "locust" not in own.uv(*export, "--no-dev").stdout, "what the image has"
    assert "locust" not in own.uv(*export).stdout, "what the tests have"
    assert "locust==" in own.uv(*export, "--only-group", "load").stdout


def test_locustfile_passes_mypy_with_locust_installed(project: Project) -> None:
    """`make lint` runs without locust's types."""
    project.uv("run", "--isolated", "--group", "load", "mypy")


ROW = re.compile(
    r"^(\S*) +(plain|gzip|br|zstd) +([\d,]+) +([\d.]+)% #* +[\d.]+(?: +[+-][\d.]+)?(?:  +(\S.*))?$"
)

Rows = dict[tuple[str, str], tuple[int, float, str]]


def rows(report: str) -> Rows:
    """Return bytes, share and note by path and coding."""
    found: Rows = {}
    path = ""
    for line in report.splitlines():
        if row := ROW.match(line):
            path = row[1] or path
            found[path, row[2]] = int(row[3].replace(",", "")), float(row[4]), row[5] or ""
    return found


def test_compression_report_matches_bytes_on_the_wire(project: Project, tmp_path: Path) -> None:
    paths = ("/large-response?size_kb=300", "/large-response?size_kb=2", "/nowhere")
    with serve(project, tmp_path / "log") as server:
        found = rows(
            make(project, "compression", f"URL={address(server)}", f"PATHS={' '.join(paths)}")
        )
        codings = {"plain": "identity", "gzip": "gzip", "br": "br", "zstd": "zstd"}
        on_the_wire = {
            (path, name): len(server.get(path, **{"Accept-Encoding": coding}).body)
            for path in paths
            for name, coding in codings.items()
            if path != "/nowhere" or name == "plain"
        }

    assert {key: size for key, (size, _, _) in found.items()} == on_the_wire
    for (path, _), (size, share, _) in found.items():
        assert share == pytest.approx(size / on_the_wire[path, "plain"] * 100, abs=0.06)
    assert found["/nowhere", "plain"][2] == "status 404"


def test_compression_report_lists_routes_and_reasons_for_plain(own: Project) -> None:
    with_routes(own, ROUTES)
    (own.path / ".env").write_text("LOG_LEVEL=info\n")  # the default in .env.example

    output = make(own, "compression")

    assert "route=/large-response" not in output, "the log hides the table"
    found = rows(output)
    notes = {path: note for (path, coding), (_, _, note) in found.items() if coding == "plain"}
    assert notes == {
        "/health/live": "below 1,024 bytes",
        "/health/ready": "below 1,024 bytes",
        "/large-response": "",
        "/broken": "status 500",
        "/orders": "status 422",
        "/picture": "image/png: not compressed",
        "/untouched": "no-transform",
        "/now": "content changes: not compared",
        "/lines": "",
        "/events": "text/event-stream: not compressed",
    }
    packed = {path for path, coding in found if coding == "zstd"}
    assert packed == {"/large-response", "/now", "/lines"}
    assert found["/lines", "gzip"][2] == "streamed: ms of its first part"
    assert found["/lines", "br"][2] == "returned as identity", "streams are not sent as brotli"


@pytest.mark.parametrize(
    ("route", "complaint"),
    [
        (WRONG, "/other: br differs from plain\n"),
        (UNREADABLE, "/unreadable not decompressible: "),
    ],
)
def test_corrupted_compressed_body_fails_the_report(
    own: Project, route: str, complaint: str
) -> None:
    with_routes(own, ROUTES + route)

    result = own.run("make", "compression", env={"PATH": PATH}, check=False)

    assert result.returncode != 0
    assert complaint in result.stdout
    assert result.stdout.count("Traceback") == 1, "the one in the log, of one request to /broken"


# ── deploy/kubernetes/deploy ──────────────────────────────────────────────────────────────


@pytest.fixture(scope="module")
def deploy(render: Render, tmp_path_factory: pytest.TempPathFactory) -> Project:
    """A project for Kubernetes, without a cluster; cluster/test_deploy.py uses a cluster."""
    if shutil.which("kubectl") is None:
        pytest.skip("no manifests without kubectl")
    directory, environment = tmp_path_factory.mktemp("deploy"), shutil.ignore_patterns(".venv")
    rendered = render(deployment="kubernetes").path
    path = Path(shutil.copytree(rendered, directory / "own", ignore=environment))
    return Project(path, environment={"KUBECONFIG": str(directory / "none"), "PATH": PATH})


SCRIPT = "deploy/kubernetes/deploy"


def test_dry_run_changes_only_image_and_version_of_the_overlay(render: Render) -> None:
    project = render(deployment="kubernetes")
    kustomize = ("kubectl", "kustomize", "deploy/kubernetes/overlays/production")

    deployed = project.run(SCRIPT, "--dry-run", "production", DIGEST).stdout
    overlay = project.run(*kustomize).stdout

    assert deployed.count(f"image: {DIGEST}\n") == 1
    assert "app.kubernetes.io/version: v0123456789ab\n" in deployed
    its_own = r"image: \S+|\n +app.kubernetes.io/version: \S+"
    assert re.sub(its_own, "", deployed) == re.sub(its_own, "", overlay)


@pytest.mark.parametrize(
    ("arguments", "line"),
    [
        ([], "deploy: expected an environment and an image: staging NAME@sha256:…"),
        (["nowhere", DIGEST], "deploy: there is no environment nowhere"),
        (["staging", "ledger:latest"], "deploy: ledger:latest has no digest: NAME@sha256:…"),
        (["staging", f"a\nb@{DIGEST}"], "deploy: a"),
        (["../base", DIGEST], "deploy: there is no environment ../base"),
        (["--force", "staging", DIGEST], "deploy: unknown option --force: the options are"),
        (["local", DIGEST], f"deploy: {DIGEST} was not built by make local"),
        (["staging", DIGEST], "deploy: the cluster can't be reached with your credentials: "),
    ],
)
def test_invalid_arguments_of_deploy_print_one_line(
    deploy: Project, arguments: list[str], line: str
) -> None:
    result = deploy.run(SCRIPT, *arguments, check=False)

    assert result.returncode == 1
    assert result.stdout.startswith(line)
    assert list(deploy.path.glob("deploy/kubernetes/release.*")) == []


def test_hooks_and_ci_run_the_make_targets(render: Render, target: str) -> None:
    """The commands to lint and test are defined in one place."""
    project = render(deployment=target)
    ci = (project.path / ".github/workflows/ci.yml").read_text()
    pipeline = (render(deployment=target, ci="gitlab").path / ".gitlab-ci.yml").read_text()

    for command in ("make lint", "make test", "make validate"):
        assert f"run: {command}\n" in ci
        assert f"- {command}\n" in pipeline


def test_ci_builds_the_image_as_make_image_does(render: Render, target: str) -> None:
    project = render(deployment=target)
    command = ["make", "--no-print-directory", "--dry-run", "image"]

    output = subprocess.run(command, cwd=project.path, check=True, capture_output=True, text=True)

    assert (
        f"run: {output.stdout.strip()}\n" in (project.path / ".github/workflows/ci.yml").read_text()
    )
