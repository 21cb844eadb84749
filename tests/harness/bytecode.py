"""Compile the packages of rendered projects in uv's cache: `python -m tests.harness.bytecode`.

uv links all files of a package into a new environment, also bytecode. A test run makes more than a
hundred environments; without it the first process in each would compile the same packages.
"""

import subprocess
import sys
import tempfile
from pathlib import Path

from .project import UV, Project
from .template import render, snapshot

# The answers with the most packages.
ANSWERS = {"project_name": "Ledger", "deployment": "vm", "database": "postgresql"}


def archives(environment: Path) -> list[Path]:
    """Return the directories of uv's cache that have the packages of an environment."""
    cache = subprocess.run([UV, "cache", "dir"], check=True, capture_output=True, text=True)
    names = {found.name for found in environment.glob("lib/python*/site-packages/*.dist-info")}
    cached = Path(cache.stdout.strip()).glob("archive-v*/*/*.dist-info")
    return sorted({found.parent for found in cached if found.name in names})


def main() -> None:
    """Render a project, download its packages, and compile them."""
    with tempfile.TemporaryDirectory() as directory:
        project = Project(Path(directory) / "service")
        render(snapshot(Path(directory) / "template"), project.path, ANSWERS)
        project.uv("sync", "--quiet")
        compile_all = (sys.executable, "-m", "compileall", "-qq", "-j", "0")
        # Some packages contain files that are not valid Python, for their own tests.
        subprocess.run([*compile_all, *archives(project.path / ".venv")], check=False)


if __name__ == "__main__":
    main()
