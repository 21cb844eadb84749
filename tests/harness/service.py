"""A service to deploy: the reference service, or the example, with routes for the tests."""

import asyncio
import re
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from .load import Load, Tally
from .machine import DEBIAN_13, Debian, Machine
from .project import Project, find_python
from .reference_service import LEFT_OUT, graft

ROUTES = """
import asyncio  # noqa: E402
import os  # noqa: E402
from collections.abc import AsyncIterator  # noqa: E402
from pathlib import Path  # noqa: E402

from fastapi import Request, Response, WebSocket  # noqa: E402
from fastapi.responses import StreamingResponse  # noqa: E402

VERSION = "1"


@app.get("/version")
async def version() -> str:
    return VERSION


@app.get("/cookies")
async def cookies(response: Response) -> None:
    for number in range(3):
        response.set_cookie(f"part-{number}", "x" * 4_000)


@app.get("/worker")
async def worker() -> int:
    return os.getpid()


@app.get("/hold")
async def hold(seconds: float) -> int:
    await asyncio.sleep(seconds)
    return os.getpid()


@app.get("/stream")
async def stream(seconds: float) -> StreamingResponse:
    async def parts() -> AsyncIterator[str]:
        for part in range(10):
            await asyncio.sleep(seconds / 10)
            yield f"{part}\\n"

    return StreamingResponse(parts())


@app.get("/allocate")
async def allocate(mebibytes: int) -> int:
    return len(b"x" * (mebibytes * 2**20))


@app.get("/where")
async def where(request: Request) -> dict[str, str]:
    assert request.client
    return {"url": str(request.url_for("version")), "client": request.client.host}


@app.get("/print")
async def say(text: str) -> None:
    print(text)


@app.get("/cache")
async def cache() -> str:
    file = Path.home() / ".cache/orders/entry"
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text("kept")
    return str(file)


@app.get("/reach")
async def reach(address: str, port: int) -> bool:
    try:
        _, writer = await asyncio.wait_for(asyncio.open_connection(address, port), 2)
    except OSError:
        return False
    writer.close()
    return True


@app.post("/echo")
async def echo(request: Request) -> str:
    return (await request.body()).decode()


@app.websocket("/echo")
async def chat(socket: WebSocket) -> None:
    await socket.accept()
    await socket.send_text(await socket.receive_text())
"""

SETTINGS = "WEB_CONCURRENCY=2\n"

MIXED = ("/version", "POST /echo", "/large-response?size_kb=4")
LOAD_SECONDS = 900
DEPLOY_RATE = 600.0
"""Requests per second during a deploy, which needs CPU time as well."""


@dataclass(frozen=True)
class Service:
    """A checkout of a service on a machine."""

    machine: Machine
    slug: str
    package: str
    path: str
    """The path of the checkout on the machine."""

    @property
    def unit(self) -> str:
        return f"{self.slug}.service"

    def deploy(self, *options: str, check: bool = True) -> tuple[int, list[str]]:
        """Run its deploy script; return the exit status and the lines of its output."""
        result = self.machine.run(f"{self.path}/deploy/vm/deploy", *options, check=check)
        return result.returncode, result.stdout.splitlines()

    def install(self) -> None:
        """Deploy it for the first time, and wait until nginx serves nothing but the site."""
        before = self.nginx_workers
        self.deploy()
        self.wait_for_new_nginx_workers(before)
        self.machine.wait_until(lambda: self.status("/version") == 200, "installed")

    def edit(self, name: str, pattern: str, new: str) -> None:
        """Replace the only match of a regular expression in a file of the checkout."""
        file = self.machine.root / self.path.lstrip("/") / name
        text, replaced = re.subn(pattern, lambda _: new, file.read_text(), flags=re.MULTILINE)
        assert replaced == 1, f"{name}: {replaced} times {pattern!r}"
        file.write_text(text)

    def release(self, version: str) -> None:
        """Change the version in the checkout."""
        self.edit(f"src/{self.package}/app.py", '^VERSION = ".*"$', f'VERSION = "{version}"')

    def rights(self, text: str) -> None:
        """Write rights.conf in the checkout."""
        file = self.machine.root / self.path.lstrip("/") / "deploy/vm/systemd/rights.conf"
        file.write_text(text)

    def settings(self, text: str) -> None:
        """Write the host's settings, readable by root only."""
        self.machine.run(
            "install", "-D", "-m600", "/dev/stdin", f"/etc/{self.slug}/env", stdin=text
        )

    def secret(self, name: str, value: str) -> None:
        """Write a secret of the host, readable by root only."""
        file = f"/etc/{self.slug}/secrets/{name}"
        self.machine.run("install", "-D", "-m600", "/dev/stdin", file, stdin=value)

    def accepts(self, token: str) -> bool:
        """Return whether the reference service accepts that API_TOKEN."""
        status = self.status("/accounts/1", "--header", f"Authorization: Bearer {token}")
        assert status in (200, 401, 404), status
        return status != 401

    def shown(self, secret: str) -> list[str]:
        """Return the places where a secret is visible, except its own file."""
        places = "/proc/[0-9]*/environ /proc/[0-9]*/cmdline /etc /opt /run/systemd /var/log"
        search = f"grep -raslF --exclude-dir=secrets --file=- {places}; true"
        found = self.machine.run("sh", "-c", search, stdin=secret).stdout.splitlines()
        for unit in (self.unit, f"{self.slug}.socket"):
            if secret in self.machine.run("systemctl", "show", "--all", unit).stdout:
                found.append(f"systemctl show {unit}")
        self.machine.run("journalctl", "--sync")
        if secret in self.machine.run("journalctl", "--all", "--output=json").stdout:
            found.append("the journal")
        return found

    @property
    def deploy_here(self) -> str:
        """The deploy script of the running release, which applies new settings and secrets."""
        return f"/opt/{self.slug}/current/deploy/vm/deploy"

    def request(self, path: str, *options: str) -> str:
        """Return the body of a response through nginx, requested on the machine with curl."""
        url = f"http://localhost{path}"
        return self.machine.run("curl", "--silent", "--show-error", *options, url).stdout

    def status(self, path: str, *options: str) -> int:
        """Return the status of a response through nginx; 0 for no response."""
        url = f"http://localhost{path}"
        curl = ("curl", "--silent", "--output", "/dev/null", "--write-out", "%{http_code}")
        return int(self.machine.run(*curl, *options, url, check=False).stdout)

    @property
    def version(self) -> str:
        """Return the version that responds."""
        return self.request("/version", "--fail").strip('"')

    @property
    def workers(self) -> list[int]:
        """The process IDs of gunicorn's workers on the machine."""
        return self._children(self.unit)

    @property
    def nginx_workers(self) -> list[int]:
        """The process IDs of nginx's workers on the machine."""
        return self._children("nginx.service")

    def wait_for_new_nginx_workers(self, old: list[int]) -> None:
        """Wait until the workers from before a reload have ended."""

        def replaced() -> bool:
            new = self.nginx_workers
            return bool(new) and not set(old) & set(new)

        self.machine.wait_until(replaced, "reloaded")

    def _children(self, unit: str) -> list[int]:
        """Return the process IDs of the children of a unit's main process."""
        main = self.machine.show(unit, "MainPID")
        return [int(pid) for pid in self.machine.run("pgrep", "-P", main).stdout.split()]

    def under_load(
        self,
        event: Callable[[], object],
        *,
        requests: int = 20_000,
        rate: float | None = None,
        paths: tuple[str, ...] = MIXED,
    ) -> Tally:
        """Call a function during a load through nginx; return the outcomes of the requests.

        The load has at most `rate` requests per second, and lasts until the function has returned
        and `requests` are answered. Raises the errors of the function, and `TimeoutError`.
        """

        async def load() -> Tally:
            load = Load(80, list(paths), rate=rate, namespace=self.machine.namespace)
            async with asyncio.timeout(LOAD_SECONDS):
                await load.answered(requests // 10)
                await asyncio.to_thread(event)
                await load.answered(max(requests, load.tally.answered + requests // 10))
                return await load.stop()

        return asyncio.run(load())


def watch(project: Project) -> Project:
    """Append `ROUTES` to the application of a project."""
    with (project.path / f"src/{project.package}/app.py").open("a") as app:
        app.write(ROUTES)
    return project


def prepare(
    project: Project, directory: Path, release: Debian = DEBIAN_13, *, plain: bool = False
) -> Project:
    """Return a project with `ROUTES`: the reference service, or the example with `plain`.

    Its dependencies are locked and in uv's cache. Raises `LookupError` if this machine lacks the
    Python of `release`.
    """
    python = find_python(release.python)
    if python is None:
        raise LookupError(f"there is no Python {release.python}")
    if plain:
        shutil.copytree(project.path, directory, ignore=LEFT_OUT)
    else:
        graft(project, directory)
    prepared = watch(Project(directory, python))
    prepared.uv("sync", "--quiet", "--no-dev", "--no-editable")
    shutil.rmtree(directory / ".venv")
    return prepared


def check_out(project: Project, machine: Machine, path: str = "/root/checkout") -> Service:
    """Copy a prepared project to a machine, and write `SETTINGS`."""
    shutil.copytree(project.path, machine.root / path.lstrip("/"))
    answers = project.answers
    service = Service(machine, answers["project_slug"], answers["package_name"], path)
    service.settings(SETTINGS)
    return service
