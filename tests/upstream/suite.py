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

# What each project's own CI installs to run its tests.
REQUIREMENTS = {
    "fastapi": ("fastapi[all]", "--group=fastapi/pyproject.toml:tests"),
    "starlette": ("--group=starlette/pyproject.toml:dev",),
}
# Plugins that only change the output, or measure.
UNUSED_PLUGINS = ("cacheprovider", "codspeed", "sugar")
# What pip and uv say when they get no answer.
UNREACHABLE = ("connection broken", "error sending request", "network was disabled")

Outcomes = dict[str, str]


class IndexUnreachableError(Exception):
    """The package index cannot be reached."""


@dataclass(frozen=True)
class Suite:
    """The tests of one upstream project, beside the environment that they run in."""

    name: str
    version: str
    directory: Path
    service: Project

    def bare(self) -> Outcomes:
        """The outcome of each test without the layer; run once per set of locked versions."""
        with locked(self.directory / f"{self.name}.lock"):
            kept = self.directory / f"{self.name}-bare.json"
            return read(kept) if kept.exists() else self._run("bare", (), {})

    def layered(self, errors: str, only: Sequence[str] = ()) -> Outcomes:
        """The outcome of each test with the layer, or of some tests, one after another.

        `errors` is `problems`, or `framework` for the framework's own error bodies.
        """
        variables = {
            "LAYER_SUITE": self.name,
            "LAYER_PACKAGE": self.service.package,
            "LAYER_ERRORS": errors,
            "PYTHONPATH": os.pathsep.join([str(INSIDE), str(self.service.path / "src")]),
        }
        return self._run(errors, only, variables)

    def _run(self, run: str, only: Sequence[str], variables: Mapping[str, str]) -> Outcomes:
        name = f"{self.name}-{run}" + ("-again" if only else "")
        outcomes = self.directory / f"{name}.json"
        tests = self.directory / f"{name}.tests.txt"
        temporary = self.directory / f"{name}.tmp"
        tests.write_text("\n".join(only or ["tests"]))
        command = [
            *(str(self.directory / "venv" / "bin" / "python"), "-m", "pytest", f"@{tests}"),
            *("-p", "plugin", f"--outcomes={outcomes}", "--quiet", "--color=no"),
            f"--basetemp={temporary}",
            *(f"-pno:{plugin}" for plugin in UNUSED_PLUGINS),
            f"--numprocesses={0 if only else 'auto'}",
        ]
        outcomes.unlink(missing_ok=True)
        shutil.rmtree(temporary, ignore_errors=True)
        with (self.directory / f"{name}.log").open("w") as log:
            done = subprocess.run(
                command,
                cwd=self.directory / self.name,
                env={**environment(), "PYTHONPATH": str(INSIDE), **variables},
                stdout=log,
                stderr=subprocess.STDOUT,
                timeout=LONGEST_RUN,
            )
        if done.returncode not in (0, 1):  # all passed, some failed
            raise AssertionError(f"pytest: exit {done.returncode}\n{Path(log.name).read_text()}")
        return read(outcomes)


def environment() -> dict[str, str]:
    """The variables of a run: none of this test run's. pytest caches the tests that it rewrites."""
    foreign = (*FOREIGN, "PYTHONDONTWRITEBYTECODE")
    return {
        name: value
        for name, value in os.environ.items()
        if name not in foreign and not name.startswith("PYTEST_")
    }


def read(outcomes: Path) -> Outcomes:
    """Return the outcomes that the plugin wrote."""
    found: Outcomes = json.loads(outcomes.read_text())
    return found


def suite(name: str, service: Project) -> Suite:
    """The tests of `name` in the version that the service locks, ready to run.

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
    """One process at a time."""
    with path.open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def package(name: str, service: Project) -> Any:
    """What the service's lock file says of a package."""
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
    """Make the environment of both suites: what the service locks, and what the tests need."""
    directory.uv("venv", "--quiet", "--clear", "venv")
    wanted = [option for options in REQUIREMENTS.values() for option in options]
    directory.uv("pip", "install", "--quiet", "--python=venv", "-rrequirements.txt", *wanted)
