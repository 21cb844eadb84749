"""The reference service of `tests/reference/`, copied into a rendered project."""

import re
import shutil
from pathlib import Path

from .project import Project
from .template import ROOT

SOURCE = ROOT / "tests/reference"
LEFT_OUT = shutil.ignore_patterns(".git", ".venv*", "__pycache__", ".*_cache")


def graft(project: Project, directory: Path) -> Project:
    """Return a copy of a rendered project with the reference service, its dependencies locked."""
    shutil.copytree(project.path, directory, ignore=LEFT_OUT)
    grafted = Project(directory, project.python, project.environment)
    write(grafted)
    return grafted


def write(project: Project) -> list[str]:
    """Write the reference service to a project, lock its dependencies; return the files written."""
    answers = project.answers
    names = {
        'metadata("ledger")': f'metadata("{answers["project_slug"]}")',
        'title="Ledger"': f'title="{answers["project_name"]}"',
        "from ledger.": f"from {answers['package_name']}.",
    }
    written = []
    for part, place in [("src", f"src/{project.package}"), ("tests", "tests")]:
        copied = project.path / place
        shutil.copytree(SOURCE / part, copied, ignore=LEFT_OUT, dirs_exist_ok=True)
        for source in (SOURCE / part).rglob("*.py"):
            file = copied / source.relative_to(SOURCE / part)
            text = source.read_text()
            for name, own in names.items():
                text = text.replace(name, own)
            file.write_text(text)
            written.append(str(file.relative_to(project.path)))
    if (project.path / ".env.example").exists():  # not before 0.4.0
        with (project.path / ".env.example").open("a") as example:
            example.write((SOURCE / "env.example").read_text())
    requirements = (SOURCE / "requirements.txt").read_text()
    project.uv("add", "--quiet", "--no-sync", *re.findall("^[^#\n]+$", requirements, re.M))
    return written
