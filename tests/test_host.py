"""A VM: the units and the site by their own tools, then the whole chain as systemd runs it."""

import asyncio
import os
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path

import httpx2
import pytest

from .harness import host
from .harness.host import Host
from .harness.load import Load, Tally
from .harness.project import Project

EXPOSURE = 15
"""The most that `systemd-analyze security` may find, in tenths: a plain `User=` has 92."""

pytestmark = pytest.mark.parametrize("target", ["vm"], indirect=True, scope="session")


@pytest.fixture(scope="module", autouse=True)
def tools() -> None:
    """What a host has."""
    if missing := host.missing_tools():
        pytest.skip(f"no host without {', '.join(missing)}")


@pytest.fixture(scope="module")
def running(project: Project, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Host]:
    """The project behind systemd's socket and nginx."""
    with host.run(project, tmp_path_factory.mktemp("host")) as running:
        yield running


@pytest.fixture
def client(running: Host) -> Iterator[httpx2.Client]:
    """A client of nginx."""
    url = f"http://127.0.0.1:{running.nginx.port}"
    with httpx2.Client(base_url=url, trust_env=False) as client:
        yield client


def test_systemd_understands_the_units(project: Project, tmp_path: Path) -> None:
    copies = []
    for kind in ("service", "socket"):
        unit = host.unit_file(project, kind)
        copies.append(tmp_path / unit.name)
        copies[-1].write_text(host.installed_here(project, unit.read_text()))

    done = subprocess.run(["systemd-analyze", "verify", *copies], capture_output=True, text=True)

    assert (done.returncode, done.stdout + done.stderr) == (0, "")


def test_the_service_can_do_little_harm(project: Project) -> None:
    judge = ["systemd-analyze", "security", "--offline=true", f"--threshold={EXPOSURE}"]

    done = subprocess.run(
        [*judge, host.unit_file(project, "service")], capture_output=True, text=True
    )

    assert done.returncode == 0, done.stdout


def test_nginx_understands_the_site(project: Project, tmp_path: Path) -> None:
    command = host.nginx_command(host.site_file(project).read_text(), tmp_path)

    done = subprocess.run([*command, "-t"], capture_output=True, text=True)

    assert done.returncode == 0, done.stderr
    assert "warn" not in done.stderr


def test_answers_through_nginx(client: httpx2.Client) -> None:
    assert client.get("/health/live").json() == {"status": "live"}
    assert client.get("/health/ready").json() == {"status": "ready"}
    assert client.get("/large-response?size_kb=junk").status_code == 422


@pytest.mark.parametrize("coding", ["zstd", "br", "gzip"])
def test_compresses_once_and_only_what_is_worth_it(client: httpx2.Client, coding: str) -> None:
    plain = client.get("/large-response", headers={"Accept-Encoding": "identity"})
    packed = client.get("/large-response", headers={"Accept-Encoding": coding})
    small = client.get("/health/live", headers={"Accept-Encoding": coding})

    assert "content-encoding" not in plain.headers
    assert packed.headers.get_list("content-encoding") == [coding]
    assert packed.num_bytes_downloaded < plain.num_bytes_downloaded / 4
    assert packed.json() == plain.json()
    assert "content-encoding" not in small.headers


def test_nobody_can_forge_where_a_request_comes_from(client: httpx2.Client, running: Host) -> None:
    forged = {
        "X-Forwarded-For": "203.0.113.9",
        "X-Forwarded-Proto": "https",
        "Forwarded": "for=203.0.113.9;proto=https;host=example.org",
    }

    redirect = client.get("/health/live/", headers=forged)  # it names the scheme that it believes

    assert redirect.headers["location"] == "http://127.0.0.1/health/live"
    running.gunicorn.wait_for_log('"client":"127.0.0.1"')
    assert "203.0.113.9" not in running.gunicorn.log


def test_a_body_over_the_limit_is_refused(client: httpx2.Client) -> None:
    allowed = client.post("/health/live", content=b"x" * 2**20)
    refused = client.post("/health/live", content=b"x" * (2**20 + 1))

    assert allowed.status_code == 405
    assert refused.status_code == 413


def test_a_restart_under_load_loses_no_request(running: Host) -> None:
    """SIGTERM, exit status 0, another process: requests wait in the socket meanwhile."""
    before = len(running.masters)

    async def restart() -> Tally:
        load = Load(running.nginx.port, ["/health/live", "/large-response?size_kb=64"])
        await load.answered(500)
        os.kill(running.masters[-1], signal.SIGTERM)
        async with asyncio.timeout(30):
            while len(running.masters) == before:
                assert running.gunicorn.process.poll() is None, running.gunicorn.log
                await asyncio.sleep(0.05)
            await load.answered(load.tally.answered + 500)
        return await load.stop()

    tally = asyncio.run(restart())

    assert (tally.failed, tally.lost, tally.refused) == (0, 0, 0), tally
    assert "upstream" not in running.nginx.log, "nginx had to ask again"
