"""A server with the routes of routes.py."""

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from pathlib import Path

import pytest

from ..harness.project import Project
from ..harness.server import Server, serve
from .routes import ROUTES

# Common dependencies of services: forms, and sniffio, with which anyio detects the event loop.
BESIDE = ("python-multipart", "sniffio")

ServeRoutes = Callable[..., AbstractContextManager[Server]]


@pytest.fixture(scope="module")
def serve_routes(project: Project, tmp_path_factory: pytest.TempPathFactory) -> ServeRoutes:
    """Start the service with those routes and settings; in one process, with a deadline of 1 s."""
    directory = tmp_path_factory.mktemp("routes")
    code = ROUTES.format(package=project.package, database=directory / "entries.sqlite")
    (directory / "routes.py").write_text(code)
    project.uv("pip", "install", "--quiet", "--target", str(directory), *BESIDE)

    def start(**settings: str) -> AbstractContextManager[Server]:
        env = {
            "PYTHONPATH": str(directory),
            "WEB_CONCURRENCY": "1",
            "REQUEST_TIMEOUT_SECONDS": "1",
            **settings,
        }
        log = Path(tmp_path_factory.mktemp("server") / "log")
        return serve(project, log, "routes:app", env)

    return start


@pytest.fixture(scope="module")
def server(serve_routes: ServeRoutes) -> Iterator[Server]:
    """The service with those routes and default settings, except for the deadline."""
    with serve_routes() as server:
        yield server
