"""The test suite of an upstream project: its source, its environment, and a run of it.

Everything is kept below build/upstream, by the versions that the service locks. The output of a run
is in a file there, so `tail -f build/upstream/*/*.log` shows how far it is.
"""

import fcntl
import hashlib
import json
import os
import shutil
import subprocess
import tarfile
import tomllib
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..harness.project import FOREIGN, Project
from ..harness.template import ROOT

HERE = Path(__file__).parent
INSIDE = HERE / "inside"
KEPT = ROOT / "build" / "upstream"
# Seconds. A run takes two minutes on two cores.
LONGEST_RUN = 1200
# Tests that take less time than the start of workers.
FEW = 100

# Test dependencies of each project's CI.
REQUIREMENTS = {
    "fastapi": ("fastapi[all]", "--group=fastapi/pyproject.toml:tests"),
    "starlette": ("--group=starlette/pyproject.toml:dev",),
}
# Plugins that only change the output or measure.
UNUSED_PLUGINS = ("cacheprovider", "codspeed", "sugar")
# Messages of pip and uv for an unreachable index.
UNREACHABLE = ("connection broken", "error sending request", "network was disabled")

Outcomes = dict[str, str]


class IndexUnreachableError(Exception):
    """The package index cannot be reached."""


@dataclass(frozen=True)
class Suite:
    """The tests of one upstream project, and their environment."""

    name: str
    version: str
    directory: Path
    service: Project

    def collected(self) -> Outcomes:
        """Return all tests, as pytest collects them without the layer."""
        return self._run("collected", (), {}, "--collect-only", "--numprocesses=0")

    def bare(self, only: Sequence[str]) -> Outcomes:
        """Return the outcomes of some tests without the layer."""
        return self._run("bare", only, {}) if only else {}

    def layered(self, errors: str, only: Sequence[str] = ()) -> Outcomes:
        """Return the outcomes of all tests with the layer, or of some.

        `errors` is `problems`, or `framework` for the framework's own error bodies.
        """
        variables = {
            "LAYER_SUITE": self.name,
            "LAYER_PACKAGE": self.service.package,
            "LAYER_ERRORS": errors,
            "PYTHONPATH": os.pathsep.join([str(INSIDE), str(self.service.path / "src")]),
        }
        return self._run(errors, only, variables)

    def _run(
        self, run: str, only: Sequence[str], variables: Mapping[str, str], *options: str
    ) -> Outcomes:
        name = f"{self.name}-{run}" + ("-part" if only else "")
        outcomes = self.directory / f"{name}.json"
        tests = self.directory / f"{name}.tests.txt"
        temporary = self.directory / f"{name}.tmp"
        tests.write_text("\n".join(only or ["tests"]))
        command = [
            *(str(self.directory / "venv" / "bin" / "python"), "-m", "pytest", f"@{tests}"),
            *("-p", "plugin", f"--outcomes={outcomes}", "--quiet", "--color=no"),
            # Other tracebacks parse the source, which a bug of CPython 3.11 ends now and then.
            "--tb=native",
            f"--basetemp={temporary}",
            *(f"-pno:{plugin}" for plugin in UNUSED_PLUGINS),
            # A few run one after the other, without the start of workers.
            f"--numprocesses={0 if 0 < len(only) <= FEW else 'auto'}",
            *options,
        ]
        outcomes.unlink(missing_ok=True)
        shutil.rmtree(temporary, ignore_errors=True)
        with (self.directory / f"{name}.log").open("w") as log:
            result = subprocess.run(
                command,
                cwd=self.directory / self.name,
                env={**environment(), "PYTHONPATH": str(INSIDE), **variables},
                stdout=log,
                stderr=subprocess.STDOUT,
                timeout=LONGEST_RUN,
            )
        if result.returncode not in (0, 1):  # all passed, some failed
            raise AssertionError(f"pytest: exit {result.returncode}\n{Path(log.name).read_text()}")
        return read(outcomes)


def environment() -> dict[str, str]:
    """Return the environment of a run, without variables of this test run."""
    return {
        name: value
        for name, value in os.environ.items()
        if name not in FOREIGN and not name.startswith("PYTEST_")
    }


def read(outcomes: Path) -> Outcomes:
    """Return the outcomes written by the plugin."""
    found: Outcomes = json.loads(outcomes.read_text())
    return found


def suite(name: str, service: Project) -> Suite:
    """Return the tests of `name` in the version that the service locks, ready to run.

    Raises `IndexUnreachableError` when it can't be downloaded.
    """
    requirements = service.uv(
        "export", "--quiet", "--no-default-groups", "--no-emit-project", "--no-annotate"
    ).stdout
    key = hashlib.sha256(f"{service.python}\n{REQUIREMENTS}\n{requirements}".encode()).hexdigest()[
        :12
    ]
    directory = KEPT / key
    directory.mkdir(parents=True, exist_ok=True)
    with locked(directory / "lock"):
        if not (directory / "ready").exists():
            (directory / "requirements.txt").write_text(requirements)
            try:
                for upstream in REQUIREMENTS:
                    download(upstream, service, directory)
                install(Project(directory, python=service.python))
            except AssertionError as error:
                if any(sign in str(error) for sign in UNREACHABLE):
                    raise IndexUnreachableError("no answer from the package index") from error
                raise
            (directory / "ready").touch()
    return Suite(name, package(name, service)["version"], directory, service)


@contextmanager
def locked(path: Path) -> Iterator[None]:
    """Yield one process at a time."""
    with path.open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def package(name: str, service: Project) -> Any:
    """Return the entry of a package in the service's lock file."""
    lock = tomllib.loads((service.path / "uv.lock").read_text())
    [found] = [found for found in lock["package"] if found["name"] == name]
    return found


def download(name: str, service: Project, directory: Path) -> None:
    """Unpack the source distribution of the lock file, without the package itself."""
    found = package(name, service)
    wanted = directory / f"{name}.sdist.txt"
    wanted.write_text(f"{name}=={found['version']} --hash={found['sdist']['hash']}\n")
    pip = ("tool", "run", "pip", "download", "--no-deps", "--no-binary=:all:", "--require-hashes")
    Project(directory, python=service.python).uv(
        *pip, f"--requirement={wanted}", f"--dest={directory}"
    )
    [packed] = directory.glob(f"{name}-*.tar.gz")
    with tarfile.open(packed) as archive:
        archive.extractall(directory, filter="data")
    source = directory / packed.name.removesuffix(".tar.gz")
    shutil.rmtree(source / name)  # the installed one is tested
    shutil.rmtree(directory / name, ignore_errors=True)
    source.rename(directory / name)


def install(directory: Project) -> None:
    """Create the environment of both suites: locked packages of the service, test dependencies."""
    directory.uv("venv", "--quiet", "--clear", "venv")
    wanted = [option for options in REQUIREMENTS.values() for option in options]
    directory.uv("pip", "install", "--quiet", "--python=venv", "-rrequirements.txt", *wanted)
