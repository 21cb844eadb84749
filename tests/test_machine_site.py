"""The public side of a booted Debian: nginx and what is behind it, plain and with TLS."""

import json
import re
import shutil
import subprocess
from pathlib import Path

import pytest

from .harness import debian, network
from .harness.machine import PACKAGES
from .harness.project import Project
from .harness.service import Service

PROBLEM = "application/problem+json"
CLIENT, FORGED = "127.0.0.7", "203.0.113.9"

CHAT = """
from websockets.sync.client import connect

with connect("ws://localhost/echo") as socket:
    socket.send("through nginx")
    print(socket.recv())
"""


@pytest.fixture(scope="module")
def site(checkout: Service) -> Service:
    """The service behind a site that does not wait for long."""
    site = f"deploy/vm/nginx/{checkout.slug}.conf"
    checkout.edit(site, r"proxy_read_timeout \d+s", "proxy_read_timeout 1s")
    checkout.install()
    return checkout


def answer(service: Service, path: str, *options: str) -> tuple[int, str, str]:
    """The status, the media type and the body of an answer."""
    told = service.ask(path, "--write-out", "\n%{http_code} %{content_type}", *options)
    body, _, end = told.rpartition("\n")
    status, _, media_type = end.partition(" ")
    return int(status), media_type, body


@pytest.mark.parametrize(
    ("status", "path", "options"),
    [
        (400, "/version", ["--header", "Host: a b"]),
        (413, "/echo", ["--data-binary", "@/usr/bin/nsenter", "--data-binary", "@/bin/bash"]),
        (414, "/" + "x" * 20_000, []),
        (431, "/version", ["--header", "X: " + "x" * 20_000]),
        (504, "/hold?seconds=5", []),
    ],
)
def test_what_nginx_says_by_itself_is_a_problem(
    site: Service, status: int, path: str, options: list[str]
) -> None:
    told, media_type, body = answer(site, path, *options)

    assert (told, media_type) == (status, PROBLEM)
    assert json.loads(body)["status"] == status


def test_what_is_no_request_is_answered_with_a_problem(site: Service) -> None:
    with network.connect(80, site.machine.namespace) as client:
        client.sendall(b"\x16\x03\x01 garbage\r\n\r\n")
        told = b"".join(iter(lambda: client.recv(4096), b"")).decode()

    assert f"Content-Type: {PROBLEM}" in told
    assert '"status":400' in told


def test_with_no_service_it_says_so(site: Service) -> None:
    site.machine.run("systemctl", "stop", site.unit, f"{site.slug}.socket")
    told, media_type, body = answer(site, "/version")
    site.machine.run("systemctl", "start", site.unit)

    assert (told, media_type) == (502, PROBLEM)
    assert json.loads(body)["status"] == 502


def test_a_websocket_passes(site: Service) -> None:
    python = f"/opt/{site.slug}/current/.venv/bin/python"

    done = site.machine.run(python, "-c", CHAT)

    assert done.stdout == "through nginx\n"


@pytest.mark.parametrize("coding", ["zstd", "br", "gzip"])
def test_compresses_once_and_only_what_is_worth_it(site: Service, coding: str) -> None:
    """In the service: nginx passes on what it gets, and compresses nothing by itself."""
    plain, _ = downloaded(site, "/large-response", "identity")
    packed, encodings = downloaded(site, "/large-response", coding)

    assert encodings == [coding]
    assert packed < plain / 4
    assert downloaded(site, "/large-response", "identity")[1] == []
    assert downloaded(site, "/version", "zstd, br, gzip")[1] == []


def downloaded(service: Service, path: str, accepted: str) -> tuple[int, list[str]]:
    """The bytes of a body as it came, and its content encodings."""
    header = ("--header", f"Accept-Encoding: {accepted}")
    write = ("--write-out", "%{size_download}", "--output", "/dev/null", "--dump-header", "-")
    head, _, size = service.ask(path, *header, *write).rpartition("\n")
    return int(size), re.findall(r"^content-encoding: (\S+)", head, re.I | re.M)


def test_nobody_can_forge_an_address_or_a_request_id(site: Service) -> None:
    before = len(site.machine.journal(site.unit))
    forged = {
        "X-Forwarded-For": FORGED,
        "X-Real-IP": FORGED,
        "Forwarded": f"for={FORGED}",
        "X-Request-ID": "forged-4711",
    }
    options = ["--dump-header", "-", "--interface", CLIENT]
    for name, value in forged.items():
        options += ["--header", f"{name}: {value}"]

    head = site.ask("/version", *options)
    lines = site.machine.journal(site.unit)[before:]

    told = [line for line in lines if "/version" in line]
    assert len(told) == 1
    assert CLIENT in told[0]
    for text in (head, *lines):
        assert FORGED not in text
        assert "forged-4711" not in text


def test_the_metrics_are_on_no_public_port(site: Service) -> None:
    assert site.status("/metrics") == 404


def test_with_a_certificate_it_serves_tls_and_nothing_else(site: Service) -> None:
    tls = f"/etc/{site.slug}/tls"
    site.machine.run("mkdir", tls)
    certify(site.machine.root / tls.lstrip("/"))

    site.deploy()

    trust = ("--cacert", f"{tls}/fullchain.pem", "--proto-redir", "=https")
    site.machine.wait_until(lambda: site.status("/version") == 308, "encrypted")
    assert site.ask("/version", "--location", *trust) == '"1"'
    assert site.ask("/echo", "--location", "--data", "kept", *trust) == '"kept"'


def certify(directory: Path) -> None:
    """A self-made certificate for localhost."""
    key = ("-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes")
    name = ("-subj", "/CN=localhost", "-addext", "subjectAltName=DNS:localhost")
    out = ("-keyout", str(directory / "privkey.pem"), "-out", str(directory / "fullchain.pem"))
    command = ("openssl", "req", "-x509", *key, *name, *out)
    subprocess.run(command, check=True, capture_output=True)


@pytest.mark.parametrize("tls", [False, True], ids=["plain", "tls"])
@pytest.mark.parametrize(("suite", "packages"), [("bookworm", PACKAGES), ("trixie", ("nginx",))])
def test_each_nginx_takes_the_site(
    watched: Project, tmp_path: Path, suite: str, packages: tuple[str, ...], tls: bool
) -> None:
    slug = watched.answers["project_slug"]
    nginx, source = tmp_path / "etc/nginx", watched.path / "deploy/vm/nginx"
    (nginx / "sites-enabled").mkdir(parents=True)
    shutil.copy(source / f"{slug}.conf", nginx / "sites-enabled")
    if tls:
        (nginx / slug).mkdir()
        shutil.copy(source / "tls.conf", nginx / slug)
        (tmp_path / "etc" / slug / "tls").mkdir(parents=True)
        certify(tmp_path / "etc" / slug / "tls")

    check = "rm /etc/nginx/sites-enabled/default && nginx -t"
    done = debian.run_in(debian.tree(suite, packages), tmp_path, "sh", "-c", check)

    assert done.returncode == 0, done.stdout
    assert "warn" not in done.stdout
