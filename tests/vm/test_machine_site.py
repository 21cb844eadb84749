"""nginx in front of the service on a booted Debian, plain and with TLS."""

import json
import re
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import NamedTuple

import pytest

from ..harness import debian, network
from ..harness.machine import DEBIAN_12, DEBIAN_13, PACKAGES, Debian
from ..harness.project import Project
from ..harness.service import Service
from ..harness.template import ROOT

PAGE = (ROOT / "docs/how-to/vm-runbook.md").read_text()

PROBLEM = "application/problem+json"
CLIENT, FORGED = "127.0.0.7", "203.0.113.9"
BALANCER, INTERNAL = "127.0.0.9", "10.1.2.3"
BURST, CONNECTIONS = 5, 2
"""The limits of one client in these tests: requests in a burst, connections."""

CHAT = """
from websockets.sync.client import connect

with connect("ws://localhost/echo") as socket:
    socket.send("through nginx")
    print(socket.recv())
"""


@pytest.fixture(scope="module")
def site(checkout: Service) -> Service:
    """The service behind a site with short timeouts and small limits."""
    site = f"deploy/vm/nginx/{checkout.slug}.conf"
    checkout.edit(site, r"proxy_read_timeout \d+s", "proxy_read_timeout 3s")
    checkout.edit(site, r"rate=\d+r/s", "rate=1r/m")
    checkout.edit(site, r"burst=\d+", f"burst={BURST}")
    checkout.edit(site, r"(?<=_connections )\d+", str(CONNECTIONS))
    checkout.install()
    challenges = "/var/www/html/.well-known/acme-challenge"
    checkout.machine.run("install", "-D", "/dev/stdin", f"{challenges}/token", stdin="token")
    return checkout


class HttpResponse(NamedTuple):
    """A response to curl."""

    status: int
    headers: dict[str, list[str]]
    body: str


def fetch(service: Service, path: str, *options: str) -> HttpResponse:
    """Return the response to a request of curl on the machine."""
    response = service.request(path, "--write-out", "\n%{http_code} %{header_json}", *options)
    body, _, end = response.partition("\n")
    status, _, headers = end.partition(" ")
    return HttpResponse(int(status), json.loads(headers), body)


def assert_problem(response: HttpResponse, status: int) -> None:
    """Check that a response is nginx's own, with all headers of the service's errors."""
    assert response.status == status
    problem = json.loads(response.body)
    assert problem["status"] == status
    assert response.headers["content-type"] == [PROBLEM]
    assert response.headers["cache-control"] == ["no-store"]
    assert response.headers["x-content-type-options"] == ["nosniff"]
    assert response.headers["content-security-policy"] == ["frame-ancestors 'none'"]
    assert response.headers["access-control-allow-origin"] == ["*"]
    assert response.headers["access-control-expose-headers"] == ["Retry-After, X-Request-ID"]
    assert response.headers["x-request-id"] == [problem["request_id"]]


@pytest.mark.parametrize(
    ("status", "path", "options"),
    [
        (400, "/version", ["--header", "Host: a b"]),
        (403, "/.well-known/acme-challenge/", []),
        (404, "/.well-known/acme-challenge/none", []),
        (405, "/version", ["--request", "TRACE"]),
        (413, "/echo", ["--data-binary", "@/usr/bin/nsenter", "--data-binary", "@/bin/bash"]),
        (414, "/" + "x" * 20_000, []),
        (431, "/version", ["--header", "X: " + "x" * 20_000]),
        (501, "/echo", ["--header", "Transfer-Encoding: none", "--data", "x"]),
        (504, "/hold?seconds=5", []),
    ],
)
def test_nginx_own_error_is_problem_with_all_headers(
    site: Service, status: int, path: str, options: list[str]
) -> None:
    response = fetch(site, path, "--header", "Origin: https://app.example", *options)

    assert_problem(response, status)


@pytest.mark.parametrize(
    ("status", "request_line"),
    [(400, b"\x16\x03\x01 garbage"), (505, b"GET /version HTTP/3.5")],
)
def test_nginx_own_error_before_the_path_is_parsed_is_problem_with_all_headers(
    site: Service, status: int, request_line: bytes
) -> None:
    with network.connect(80, site.machine.namespace) as client:
        client.sendall(request_line + b"\r\n\r\n")
        received = b"".join(iter(lambda: client.recv(4096), b"")).decode()

    head, _, body = received.partition("\r\n\r\n")
    headers: dict[str, list[str]] = {}
    for line in head.splitlines()[1:]:
        name, _, value = line.partition(": ")
        headers.setdefault(name.lower(), []).append(value)
    assert_problem(HttpResponse(int(head.split()[1]), headers, body), status)


@pytest.mark.parametrize("path", ["/version", "/health/ready", "/none"])
def test_response_of_service_has_each_header_once_and_no_cors_of_nginx(
    site: Service, path: str
) -> None:
    response = fetch(site, path, "--header", "Origin: https://app.example")

    for name in ("x-request-id", "x-content-type-options", "content-security-policy"):
        assert len(response.headers[name]) == 1
    assert len(response.headers.get("cache-control", [])) <= 1
    assert "access-control-allow-origin" not in response.headers
    assert "access-control-expose-headers" not in response.headers
    assert "retry-after" not in response.headers


def test_acme_challenge_is_served(site: Service) -> None:
    response = fetch(site, "/.well-known/acme-challenge/token", "--range", "100-")

    assert (response.status, response.body) == (200, "token")


def test_stopped_service_is_a_502_problem(site: Service) -> None:
    site.machine.run("systemctl", "stop", site.unit, f"{site.slug}.socket")
    response = fetch(site, "/version")
    site.machine.run("systemctl", "start", site.unit)

    assert_problem(response, 502)


def test_websocket_is_proxied(site: Service) -> None:
    python = f"/opt/{site.slug}/current/.venv/bin/python"

    result = site.machine.run(python, "-c", CHAT)

    assert result.stdout == "through nginx\n"


@pytest.mark.parametrize("coding", ["zstd", "br", "gzip"])
def test_response_is_compressed_once_and_only_above_the_minimum_size(
    site: Service, coding: str
) -> None:
    """The service compresses; nginx passes responses unchanged."""
    plain, _ = downloaded(site, "/large-response", "identity")
    packed, encodings = downloaded(site, "/large-response", coding)

    assert encodings == [coding]
    assert packed < plain / 4
    assert downloaded(site, "/large-response", "identity")[1] == []
    assert downloaded(site, "/version", "zstd, br, gzip")[1] == []


def downloaded(service: Service, path: str, accepted: str) -> tuple[int, list[str]]:
    """Return the number of bytes transferred, and the content encodings."""
    header = ("--header", f"Accept-Encoding: {accepted}")
    write = ("--write-out", "%{size_download}", "--output", "/dev/null", "--dump-header", "-")
    head, _, size = service.request(path, *header, *write).rpartition("\n")
    return int(size), re.findall(r"^content-encoding: (\S+)", head, re.I | re.M)


def test_response_with_large_headers_is_proxied(site: Service) -> None:
    response = fetch(site, "/cookies")

    assert response.status == 200
    assert [len(cookie) > 4_000 for cookie in response.headers["set-cookie"]] == [True] * 3


def test_client_address_and_request_id_cannot_be_forged(site: Service) -> None:
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

    def lines() -> list[str]:
        return site.machine.journal(site.unit)[before:]

    head = site.request("/version", *options)
    site.machine.wait_until(lambda: any(CLIENT in line for line in lines()), "logged")

    assert sum(CLIENT in line and "/version" in line for line in lines()) == 1
    for text in (head, *lines()):
        assert FORGED not in text
        assert "forged-4711" not in text


# ── The host that the client names, and a balancer in front ───────────────────────────────────


@pytest.mark.parametrize(
    ("host", "url"),
    [
        ("shop.example", "http://shop.example/version"),
        ("shop.example:8080", "http://shop.example:8080/version"),
        ("[::1]:8080", "http://[::1]:8080/version"),
        ("[::1]", "http://[::1]/version"),
        ("shop.example:port", "http://shop.example/version"),
    ],
)
def test_service_builds_urls_with_host_and_port_of_client(
    site: Service, host: str, url: str
) -> None:
    response = fetch(site, "/where", "--header", f"Host: {host}")

    assert json.loads(response.body)["url"] == url


def test_request_without_host_is_served(site: Service) -> None:
    response = fetch(site, "/where", "--http1.0", "--header", "Host:")

    assert (response.status, json.loads(response.body)["url"]) == (200, "http://_/version")


@pytest.fixture
def balanced(site: Service) -> Iterator[Service]:
    """The site with only the balancer snippet of docs/how-to/vm-runbook.md added."""
    [snippet] = re.findall(r"^```text\n(set_real_ip_from .*?)^```", PAGE, re.M | re.S)
    file = f"/etc/nginx/{site.slug}/real-ip.conf"
    snippet = re.sub(r"from \S+;", f"from {BALANCER};", snippet)
    site.machine.run("install", "-D", "/dev/stdin", file, stdin=snippet)
    reload(site)
    yield site
    site.machine.run("rm", file)
    reload(site)


def reload(site: Service) -> None:
    """Reload nginx, and wait until all workers have the new configuration."""
    before = site.nginx_workers
    site.machine.run("systemctl", "reload", "nginx")
    site.wait_for_new_nginx_workers(before)


def where(service: Service, peer: str, client: str, scheme: str) -> dict[str, str]:
    """Return the client and scheme that the service sees for a forwarded request."""
    headers = {
        "Host": "shop.example",
        "X-Forwarded-For": client,
        "X-Forwarded-Proto": scheme,
        "X-Forwarded-Host": "evil.example",
        "X-Forwarded-Port": "4711",
    }
    options = [word for name in headers for word in ("--header", f"{name}: {headers[name]}")]
    response: dict[str, str] = json.loads(
        fetch(service, "/where", "--interface", peer, *options).body
    )
    return response


@pytest.mark.parametrize("scheme", ["https", "http"])
def test_configured_balancer_sets_scheme_and_client(balanced: Service, scheme: str) -> None:
    response = where(balanced, BALANCER, INTERNAL, scheme)

    assert response == {"url": f"{scheme}://shop.example/version", "client": INTERNAL}


def test_configured_balancer_with_unknown_scheme_is_http(balanced: Service) -> None:
    response = where(balanced, BALANCER, INTERNAL, "gopher")

    assert response == {"url": "http://shop.example/version", "client": INTERNAL}


def test_forwarded_headers_of_other_peer_are_refused(balanced: Service) -> None:
    response = where(balanced, CLIENT, INTERNAL, "https")

    assert response == {"url": "http://shop.example/version", "client": CLIENT}


def test_forwarded_headers_without_configured_balancer_are_refused(site: Service) -> None:
    response = where(site, BALANCER, INTERNAL, "https")

    assert response == {"url": "http://shop.example/version", "client": BALANCER}


# ── Limits of one client ──────────────────────────────────────────────────────────────────────


def from_client(address: str) -> tuple[str, ...]:
    """curl's options for a request of that client through the balancer."""
    return ("--interface", BALANCER, "--header", f"X-Forwarded-For: {address}")


def test_client_with_too_many_requests_gets_429_and_others_do_not(balanced: Service) -> None:
    client = from_client("203.0.113.1")

    within = [fetch(balanced, "/version", *client).status for _ in range(BURST + 1)]
    beyond = fetch(balanced, "/version", *client)
    health = [fetch(balanced, "/health/live", *client).status for _ in range(2 * BURST)]
    other = fetch(balanced, "/version", *from_client("203.0.113.2")).status
    internal = [fetch(balanced, "/version", *from_client(INTERNAL)).status for _ in range(9)]

    assert set(within) == {200}
    assert_problem(beyond, 429)
    assert beyond.headers["retry-after"] == ["1"]
    assert set(health) == {200}
    assert other == 200
    assert set(internal) == {200}


def test_client_with_too_many_connections_gets_429(balanced: Service) -> None:
    client = "203.0.113.3"
    upload = (
        "POST /echo HTTP/1.1\r\nHost: localhost\r\nContent-Length: 9\r\n"
        f"Expect: 100-continue\r\nX-Forwarded-For: {client}\r\n\r\n"
    )
    with ExitStack() as held:
        for _ in range(CONNECTIONS):
            connection = network.connect(80, balanced.machine.namespace, source=BALANCER)
            held.enter_context(connection).sendall(upload.encode())
            assert connection.recv(4096).startswith(b"HTTP/1.1 100"), "the body is waited for"
        beyond = fetch(balanced, "/version", *from_client(client))
        health = fetch(balanced, "/health/live", *from_client(client)).status

    assert_problem(beyond, 429)
    assert beyond.headers["retry-after"] == ["1"]
    assert health == 200


def test_metrics_are_not_on_a_public_port(site: Service) -> None:
    assert site.status("/metrics") == 404


def test_certificate_enables_tls_and_redirects_http(site: Service) -> None:
    tls = f"/etc/{site.slug}/tls"
    site.machine.run("mkdir", tls)
    certify(site.machine.root / tls.lstrip("/"))

    site.deploy()

    trust = ("--cacert", f"{tls}/fullchain.pem", "--proto-redir", "=https")
    site.machine.wait_until(lambda: site.status("/version") == 308, "encrypted")
    assert site.request("/version", "--location", *trust) == '"1"'
    assert site.request("/echo", "--location", "--data", "kept", *trust) == '"kept"'
    refused = fetch(site, "/version", "--location", "--request", "TRACE", *trust)
    assert_problem(refused, 405)
    assert refused.headers["strict-transport-security"] == ["max-age=31536000"]


def certify(directory: Path) -> None:
    """Write a self-signed certificate for localhost."""
    key = ("-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes")
    name = ("-subj", "/CN=localhost", "-addext", "subjectAltName=DNS:localhost")
    out = ("-keyout", str(directory / "privkey.pem"), "-out", str(directory / "fullchain.pem"))
    command = ("openssl", "req", "-x509", *key, *name, *out)
    subprocess.run(command, check=True, capture_output=True)


@pytest.mark.parametrize("tls", [False, True], ids=["plain", "tls"])
@pytest.mark.parametrize("release", [DEBIAN_12, DEBIAN_13], ids=lambda release: release.suite)
def test_supported_nginx_versions_accept_the_site(
    watched: Project, tmp_path: Path, release: Debian, tls: bool
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
    result = debian.run_in(debian.tree(release.suite, PACKAGES), tmp_path, "sh", "-c", check)

    assert result.returncode == 0, result.stdout
    assert "warn" not in result.stdout
