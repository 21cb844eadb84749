"""The image of each target, built with the project's own Dockerfile and run as a restricted pod."""

import http.client
import json
import os
import re
import shutil
import socket
import stat
import uuid
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import Any

import httpx2
import pytest

from ..harness import contents, images
from ..harness.images import Container
from ..harness.project import Project
from ..harness.template import git
from ..harness.wait import wait_until

PORT = 8000  # of the image: containers run on the host's network, one after another
SECRET = "hunter2"

Start = Callable[..., AbstractContextManager[Container]]

only_on_kubernetes = pytest.mark.parametrize("target", ["kubernetes"], indirect=True)
only_on_vm = pytest.mark.parametrize("target", ["vm"], indirect=True)


@pytest.fixture(scope="module")
def checkout(project: Project, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The project in a developer's checkout: locked, with caches and local secrets."""
    if missing := images.missing_tools():
        pytest.skip(f"no images without {', '.join(missing)}")
    project.uv("lock", "--quiet")
    checkout = tmp_path_factory.mktemp("image") / "checkout"
    shutil.copytree(project.path, checkout, ignore=shutil.ignore_patterns(".venv*"))
    secrets = (".env", "secrets/TOKEN", f"src/{project.package}/.env.local")
    for name in (*secrets, ".venv/pyvenv.cfg"):
        (checkout / name).parent.mkdir(exist_ok=True)
        (checkout / name).write_text(f"TOKEN={SECRET}\n")
    bytecode = checkout / f"src/{project.package}/__pycache__"
    bytecode.mkdir(exist_ok=True)
    (bytecode / "app.cpython-310.pyc").touch()
    return checkout


@pytest.fixture(scope="module")
def image(checkout: Path, target: str) -> Iterator[str]:
    """The name of the image, which is deleted afterwards."""
    tag = f"localhost/test-{target}-{uuid.uuid4().hex[:8]}"
    images.ensure_bases(checkout / "Dockerfile")
    images.build(checkout, tag)
    yield tag
    contents.remove(tag)


@pytest.fixture
def start(image: str) -> Start:
    """Run the image's command with the restrictions of a pod, and wait until it is ready."""

    @contextmanager
    def start(**options: Any) -> Iterator[Container]:
        with socket.socket() as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind(("0.0.0.0", PORT))
            except OSError as error:
                pytest.fail(f"the image needs port {PORT} of this machine: {error}")
        options["env"] = {"METRICS_PORT": "0", **options.get("env", {})}
        with images.run(image, **options) as container:
            wait_for_log(container, "Application startup complete")
            yield container

    return start


@pytest.fixture
def client() -> Iterator[httpx2.Client]:
    """A client of the container."""
    url = f"http://127.0.0.1:{PORT}"
    with httpx2.Client(base_url=url, trust_env=False, timeout=60) as client:
        yield client


def wait_for_log(container: Container, text: str) -> None:
    """Wait until the log of the container contains `text`, or it has ended."""

    def found() -> bool:
        return text in container.logs() or not container.runs()

    wait_until(found, f"{text!r} in the log", container.logs)
    assert text in container.logs()


def test_container_is_unprivileged_with_a_read_only_root(start: Start) -> None:
    with start() as container:
        status = container.exec(["cat", "/proc/1/status"]).stdout
        write = container.exec(["touch", "/app/x", "/tmp/x", "/x"])

    fields = dict(line.split(":\t", 1) for line in status.splitlines() if ":\t" in line)
    assert fields["Uid"].split() == fields["Gid"].split() == ["10001"] * 4
    assert {int(fields[f"Cap{kind}"], 16) for kind in ("Inh", "Prm", "Eff", "Bnd", "Amb")} == {0}
    assert write.stderr.count("Read-only file system") == 3


def test_serves_on_uvloop_and_httptools(start: Start, client: httpx2.Client) -> None:
    with start() as container:
        live = client.get("/health/live")
        ready = client.get("/health/ready")
        plain = client.get("/large-response", headers={"Accept-Encoding": "identity"})
        packed = client.get("/large-response", headers={"Accept-Encoding": "gzip"})

        assert "Runs on event loop uvloop, HTTP parser httptools" in container.logs()

    assert live.json() == {"status": "live"}
    assert ready.json() == {"status": "ready"}
    assert "content-encoding" not in plain.headers
    assert packed.headers["content-encoding"] == "gzip"
    assert packed.num_bytes_downloaded < plain.num_bytes_downloaded / 4
    assert packed.json() == plain.json()


def is_draining() -> bool:
    """Return whether readiness returns 503; a pod accepts connections until it exits."""
    connection = http.client.HTTPConnection("127.0.0.1", PORT, timeout=10)
    connection.request("GET", "/health/ready")
    return connection.getresponse().status == 503


def test_sigterm_to_process_1_finishes_a_download_and_exits_0(start: Start, target: str) -> None:
    with start() as container, socket.socket() as reader:
        reader.setsockopt(
            socket.SOL_SOCKET, socket.SO_RCVBUF, 4096
        )  # most of the response remains in the server
        reader.connect(("127.0.0.1", PORT))
        reader.sendall(b"GET /large-response?size_kb=4096 HTTP/1.1\r\nHost: localhost\r\n\r\n")
        begin = reader.recv(100)

        container.kill()
        if target == "kubernetes":
            while not is_draining():
                pass
        else:
            wait_for_log(container, "Waiting for connections to close")
        received = begin + b"".join(iter(lambda: reader.recv(2**16), b""))

        assert container.wait(30) == 0

    head, _, body = received.partition(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.1 200 OK")
    assert f"content-length: {len(body)}".encode() in head.lower()
    assert len(json.loads(body)["orders"]) > 1000


def test_wrong_setting_stops_the_container_with_one_line(image: str) -> None:
    with images.run(image, env={"ENVIRONMENT": "prod"}) as container:
        code = container.wait(30)
        log = container.logs()

    assert code == 3
    assert log == "ENVIRONMENT: Input should be 'development', 'staging' or 'production'\n"


def test_command_is_in_exec_form_and_user_is_numeric(image: str, target: str) -> None:
    config = contents.configuration(image)

    assert config["Cmd"][0] == {"kubernetes": "uvicorn", "vm": "gunicorn"}[target]
    assert "Entrypoint" not in config
    assert config["User"] == "10001:10001"
    assert config["StopSignal"] == "SIGTERM"
    assert "ENVIRONMENT=production" in config["Env"]


def test_image_adds_only_the_application_to_its_base(image: str, checkout: Path) -> None:
    """It contains no uv, no compiler and no build artifacts."""
    *_, base = images.base_images(checkout / "Dockerfile")
    with contents.mounted(base) as root:
        brought = contents.files(root)
    with contents.mounted(image) as root:
        added = contents.files(root) - brought

    assert added
    assert {name for name in added if not name.startswith("app/")} == set()
    programs = {Path(name).name for name in added if name.startswith("app/.venv/bin/")}
    assert "uvicorn" in programs
    assert programs & {"uv", "uvx", "pip", "pip3", "pytest", "ruff", "mypy"} == set()


def test_image_user_can_write_no_file_of_the_image(image: str) -> None:
    with contents.mounted(image) as root:
        app = root / "app"
        found = {path: path.lstat() for path in (app, *app.rglob("*"))}

    assert len(found) > 100
    assert {(status.st_uid, status.st_gid) for status in found.values()} == {(0, 0)}
    modes = {path: s.st_mode for path, s in found.items() if not stat.S_ISLNK(s.st_mode)}
    assert [path for path, mode in modes.items() if mode & (stat.S_IWGRP | stat.S_IWOTH)] == []


def test_image_has_compiled_bytecode(project: Project, start: Start) -> None:
    """On a read-only root, Python would compile missing bytecode on every start."""
    with start() as container:
        verbose = container.exec(["python", "-v", "-c", f"import {project.package}.app"]).stderr

    loaded = re.findall(r"# code object from '?(/app/.venv/.+\.pyc?)\b", verbose)
    assert [path for path in loaded if not path.endswith(".pyc")] == []
    assert len(loaded) > 100


@only_on_kubernetes
def test_image_for_kubernetes_has_no_gunicorn(image: str) -> None:
    with contents.mounted(image) as root:
        assert [name for name in contents.files(root) if "gunicorn" in name] == []


@only_on_vm
@pytest.mark.parametrize(
    ("cpus", "memory", "workers"),
    [(2, "512m", 2), (1, "512m", 1), (1.5, "512m", 1), (2, "260m", 2), (2, "220m", 1)],
)
def test_number_of_workers_follows_the_limits_of_the_container(
    start: Start, cpus: float, memory: str, workers: int
) -> None:
    if len(os.sched_getaffinity(0)) < 2:
        pytest.skip("a machine of one CPU has no room for two workers")
    with start(cpus=cpus, memory=memory) as container:
        assert container.workers() == workers


@only_on_vm
def test_heartbeat_file_of_a_worker_is_in_memory(start: Start) -> None:
    with start() as container:
        open_files = container.exec(["ls", "-l", "/proc/1/fd"]).stdout

    assert "/dev/shm/wgunicorn-" in open_files


def test_build_context_has_only_files_of_the_image(
    project: Project, checkout: Path, target: str
) -> None:
    """Files outside the build context are in no layer."""
    sources = git(project.path, "ls-files", "--cached", "--others", "--exclude-standard", "src")
    expected = {"pyproject.toml", "uv.lock", "README.md", *sources.splitlines()}
    if target == "vm":
        expected.add("deploy/vm/gunicorn.conf.py")

    seen = contents.build_context(checkout, f"localhost/test-context-{uuid.uuid4().hex[:8]}")

    assert seen == expected
