"""The containers of the Compose file, with podman as the engine."""

import asyncio
import json
import os
import re
import shutil
import ssl
import subprocess
import sys
import uuid
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest
import yaml

from ..conftest import Render
from ..harness import compose
from ..harness.compose import Stack
from ..harness.images import Container
from ..harness.load import Load, Tally
from ..harness.project import Project

TLS = "deploy/vm/compose.tls.yaml"
SECRETS = "deploy/vm/compose.secrets.yaml"
FORGED = "203.0.113.9"


@pytest.fixture(scope="module")
def service(render: Render) -> Project:
    """The service with unique names on this machine, and a short budget."""
    slug = f"ledger-{uuid.uuid4().hex[:8]}"
    return render(deployment="vm", project_slug=slug, request_timeout_seconds=5)


@pytest.fixture(scope="module")
def image(service: Project) -> Iterator[None]:
    """Its image, deleted after the last test."""
    if missing := compose.missing_tools():
        pytest.skip(f"no containers without {', '.join(missing)}")
    with compose.image(service):
        yield


@pytest.fixture(scope="module")
def stack(service: Project, image: None) -> Iterator[Stack]:
    """The containers on a host without settings and certificate."""
    with compose.run(service) as stack:
        stack.wait_until_ready()
        yield stack


@pytest.fixture
def settings(service: Project) -> Iterator[Path]:
    """The directory of the service in /etc of this host."""
    directory = Path("/etc", service.answers["project_slug"])
    directory.mkdir()
    yield directory
    shutil.rmtree(directory)


@pytest.fixture
def certificate(service: Project, settings: Path) -> Iterator[Path]:
    """A certificate in certbot's layout: links to links, in directories for root only."""
    slug = service.answers["project_slug"]
    folders = {name: Path("/etc/letsencrypt", name) for name in ("archive", "live")}
    for folder in folders.values():
        (folder / slug).mkdir(parents=True)
        folder.chmod(0o700)
    made = {name: folders["archive"] / slug / f"{name}1.pem" for name in ("fullchain", "privkey")}
    request = ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "1"]
    request += ["-subj", "/CN=localhost", "-addext", "subjectAltName=DNS:localhost"]
    request += ["-keyout", str(made["privkey"]), "-out", str(made["fullchain"])]
    subprocess.run(request, check=True, capture_output=True)
    for name, file in made.items():
        (folders["live"] / slug / f"{name}.pem").symlink_to(f"../../archive/{slug}/{file.name}")
    (settings / "tls").symlink_to(folders["live"] / slug)
    yield made["fullchain"]
    for folder in folders.values():
        shutil.rmtree(folder / slug)
        with suppress(OSError):  # unless this machine has its own certificates
            folder.rmdir()
            folder.parent.rmdir()


def processes(container: Container) -> list[dict[str, str]]:
    """Return the kernel's status of each process in it."""
    statuses = container.exec(["sh", "-c", "cat /proc/[0-9]*/status"]).stdout
    blocks = re.split(r"^(?=Name:)", statuses, flags=re.MULTILINE)[1:]
    return [dict(re.findall(r"^(\w+):\t(.*)$", text, re.MULTILINE)) for text in blocks]


@pytest.mark.parametrize("file", [*compose.FILES, SECRETS, TLS])
def test_compose_files_match_the_compose_schema(service: Project, file: str) -> None:
    check = [sys.executable, "-m", "check_jsonschema", "--builtin-schema=vendor.compose-spec"]

    result = subprocess.run([*check, service.path / file], capture_output=True, text=True)

    assert result.returncode == 0, result.stdout


def test_service_responds_through_nginx(stack: Stack) -> None:
    packed = stack.request("/large-response", headers={"Accept-Encoding": "gzip"})

    assert json.loads(stack.request("/health/live").body) == {"status": "live"}
    assert json.loads(stack.request("/health/ready").body) == {"status": "ready"}
    assert packed.headers["content-encoding"] == "gzip"
    stack.wait_until_healthy("app")


def test_client_address_cannot_be_forged(stack: Stack) -> None:
    forged = {"X-Forwarded-For": FORGED, "Forwarded": f"for={FORGED}"}

    stack.request("/large-response?size_kb=1", source="127.0.0.7", headers=forged)

    stack.wait_for_log("app", "127.0.0.7")
    assert FORGED not in stack.container("app").logs()


def test_metrics_are_reachable_on_the_host_and_not_through_nginx(stack: Stack) -> None:
    metrics = stack.request("/metrics", port=9090)

    assert b"http_request_duration_seconds_count" in metrics.body
    assert stack.request("/metrics").status == 404


def test_app_has_no_capabilities_and_a_read_only_root(stack: Stack) -> None:
    for status in processes(stack.container("app")):
        assert status["Uid"].split() == status["Gid"].split() == ["10001"] * 4
        assert {int(status[f"Cap{kind}"], 16) for kind in ("Inh", "Prm", "Eff", "Bnd")} == {0}
        assert status["NoNewPrivs"] == "1"
    users = {status["Uid"].split()[0] for status in processes(stack.container("nginx"))}
    assert users >= {"0", "101"}, "the master is root for the key of TLS, the workers are not"
    for name in ("app", "nginx"):
        refused = stack.container(name).exec(["touch", "/x", "/etc/x", "/usr/x"])
        assert refused.stderr.count("Read-only file system") == 3


def test_container_has_the_shm_size_of_the_compose_file(stack: Stack) -> None:
    app = stack.container("app")

    assert "shm 256M" in app.exec(["sh", "-c", "df -h /dev/shm | tr -s ' '"]).stdout
    assert "histogram_slot-" in app.exec(["sh", "-c", "ls /dev/shm/metrics-*"]).stdout


def test_thread_started_on_import_stops_the_container(service: Project, stack: Stack) -> None:
    application = "import threading; threading.Timer(99, print).start(); app = print"
    start = f'cd /tmp && echo "{application}" >opened.py && exec gunicorn --pythonpath /tmp'
    start += ' --config "$OLDPWD/gunicorn.conf.py" --bind 127.0.0.1:8111 opened:app'

    ended = stack.container("app").exec(["sh", "-c", start])

    assert ended.returncode == 3, ended
    assert "before the fork of the workers: thread Thread-1: open it in" in ended.stderr


def test_nginx_errors_are_problems(stack: Stack) -> None:
    large = stack.request("/health/live", method="POST", body=b"x" * (2**20 + 1))
    stack.compose("stop", "app")
    gone = stack.request("/health/live")
    stack.compose("start", "app")
    stack.wait_until_ready()

    for response, status in ((large, 413), (gone, 502)):
        assert response.status == status
        assert response.headers["content-type"] == "application/problem+json"
        assert json.loads(response.body)["status"] == status


def test_deploy_of_a_new_version_loses_no_request(stack: Stack) -> None:
    """`next` serves while `app` restarts, with the commands of deploy/README.md."""

    async def replace() -> Tally:
        paths = ["/health/live", "/large-response?size_kb=16"]
        load = Load(80, paths, rate=400, namespace=stack.namespace)
        await load.answered(200)
        await asyncio.to_thread(stack.start, "next")
        await asyncio.to_thread(stack.wait_until_healthy, "next")
        await asyncio.to_thread(stack.compose, "stop", "app")
        await load.answered(load.tally.answered + 200)
        await asyncio.to_thread(stack.compose, "start", "app")
        await asyncio.to_thread(stack.wait_until_healthy, "app")
        await asyncio.to_thread(stack.compose, "--profile=next", "stop", "next")
        await load.answered(load.tally.answered + 200)
        return await load.stop()

    tally = asyncio.run(asyncio.wait_for(replace(), timeout=900))

    assert (tally.failed, tally.lost, tally.refused) == (0, 0, 0), tally
    assert "/large-response" in stack.container("next").logs(), "it never served"


def test_nginx_and_service_stop_within_their_grace_period(stack: Stack) -> None:
    """The last test of this stack; the exit code of SIGKILL would be 137."""
    stack.compose("stop")

    codes = {name: stack.container(name).wait(timeout=120) for name in ("app", "nginx")}

    assert codes == {"app": 0, "nginx": 0}


def test_settings_and_certificate_of_the_host_are_used(
    service: Project, image: None, settings: Path, certificate: Path
) -> None:
    (settings / "env").write_text("WEB_CONCURRENCY=3\n")
    (settings / "env").chmod(0o600)
    tls = ssl.create_default_context(cafile=str(certificate))

    with compose.run(service, (*compose.FILES, TLS)) as stack:
        stack.wait_until_ready(port=443, tls=tls)
        redirect = stack.request("/health/live?a=b")
        secure = stack.request("/health/live", port=443, tls=tls)
        workers = stack.container("app").workers()

    assert (redirect.status, redirect.headers["location"]) == (
        308,
        "https://localhost/health/live?a=b",
    )
    assert secure.headers["strict-transport-security"] == "max-age=31536000"
    assert workers == 3


@pytest.mark.parametrize(
    ("limits", "workers"), [({"CPUS": "1"}, 1), ({"MEMORY": "100m"}, 1), ({"MEMORY": "500m"}, 2)]
)
def test_number_of_workers_follows_the_limits_of_the_container(
    service: Project, image: None, limits: dict[str, str], workers: int
) -> None:
    with compose.run(service, env=limits) as stack:
        stack.wait_until_ready()

        assert stack.container("app").workers() == workers


@pytest.mark.parametrize("database", ["none", "postgresql"])
def test_every_service_that_runs_the_image_has_the_secrets(render: Render, database: str) -> None:
    project = render(deployment="vm", database=database)
    slug = project.answers["project_slug"]
    given = yaml.safe_load((project.path / SECRETS).read_text())["services"]

    of_image = {name for name, each in compose.services(project).items() if each["image"] == slug}
    assert given.keys() == of_image
    for name, each in given.items():
        secrets = "migration" if name == "migration" else "settings"
        assert each["secrets"] == [secrets]
        assert each["environment"] == {"SECRETS_DIR": f"/run/secrets/{secrets}"}


def test_secrets_of_the_host_are_settings_and_not_shown(
    service: Project, image: None, settings: Path
) -> None:
    secret = settings / "secrets/LOG_LEVEL"
    secret.parent.mkdir()
    secret.write_text("debug\n")
    secret.chmod(0o400)
    os.chown(secret, 10001, 10001)

    with compose.run(service, (*compose.FILES, SECRETS)) as stack:
        stack.wait_until_ready()
        stack.start("next")
        stack.wait_until_healthy("next")
        for name in ("app", "next"):
            stack.wait_for_log(name, '"route":"/health/ready"')  # a line of level debug
            container = stack.container(name)
            check = container.exec(["python", "-m", f"{service.package}.serving"])
            environment = container.exec(["sh", "-c", "cat /proc/[0-9]*/environ"]).stdout

            assert "LOG_LEVEL=**********" in check.stdout.splitlines(), check.stderr
            assert "LOG_LEVEL" not in environment
            assert "SECRETS_DIR=/run/secrets/settings" in environment
