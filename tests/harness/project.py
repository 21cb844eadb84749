"""A rendered project, and commands in it."""

import os
import shutil
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

import yaml

from .template import ROOT

UV = shutil.which("uv", path=str(Path(sys.executable).parent)) or "uv"

# Shared by all projects: mypy identifies modules by content, not by path. One cache per worker of
# the test run, because concurrent runs of mypy can't share one.
MYPY_CACHE = ROOT / "build" / "mypy" / os.environ.get("PYTEST_XDIST_WORKER", "main")

# Variables of this test run that must not affect the project.
FOREIGN = ("VIRTUAL_ENV", "UV_PROJECT_ENVIRONMENT", "ENVIRONMENT", "WEB_CONCURRENCY")


def find_python(version: str) -> str | None:
    """Return the interpreter of that minor version on this machine, or None."""
    command = [UV, "python", "find", "--no-project", "--system", "--no-python-downloads", version]
    pyenv = sorted(map(str, Path.home().glob(".pyenv/versions/*/bin")))  # uv does not search there
    path = os.pathsep.join([os.environ["PATH"], *pyenv])
    environment = {**os.environ, "PATH": path}
    result = subprocess.run(command, env=environment, capture_output=True, text=True)
    return result.stdout.strip() if result.returncode == 0 else None


@dataclass(frozen=True)
class Project:
    """A rendered project in its own directory."""

    path: Path
    python: str = sys.executable
    environment: Mapping[str, str] = field(default_factory=dict)

    @property
    def answers(self) -> dict[str, str]:
        """The contents of its answers file."""
        answers: dict[str, str] = yaml.safe_load((self.path / ".copier-answers.yml").read_text())
        return answers

    @property
    def package(self) -> str:
        return self.answers["package_name"]

    def variables(self, extra: Mapping[str, str] | None = None) -> dict[str, str]:
        """Return the environment variables that its commands see."""
        clean = {name: value for name, value in os.environ.items() if name not in FOREIGN}
        own = {
            "UV_PYTHON": self.python,
            "UV_HTTP_TIMEOUT": "180",  # seconds; the default of 30 is too short beside other tests
            "UV_HTTP_RETRIES": "8",
            "MYPY_CACHE_DIR": str(MYPY_CACHE),
        }
        return {**clean, **own, **self.environment, **(extra or {})}

    def run(
        self, *command: str, env: Mapping[str, str] | None = None, check: bool = True
    ) -> subprocess.CompletedProcess[str]:
        """Run a command in the project. Raises `AssertionError` with its output if it fails."""
        result = subprocess.run(
            command,
            cwd=self.path,
            env=self.variables(env),
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        if check and result.returncode:
            raise AssertionError(f"{' '.join(command)}: exit {result.returncode}\n{result.stdout}")
        return result

    def uv(self, *arguments: str, check: bool = True) -> subprocess.CompletedProcess[str]:
        """Run uv in the project."""
        return self.run(UV, *arguments, check=check)

    def program(self, name: str) -> str:
        """Return the path of a program in its virtual environment."""
        return str(self.path / ".venv" / "bin" / name)
