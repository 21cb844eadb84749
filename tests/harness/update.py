"""`copier update` on rendered projects, and edits of a team."""

from dataclasses import dataclass, field
from pathlib import Path

import copier

from .project import Project
from .template import LATEST, clones_in_memory, commit, git, render


def copy_and_commit(
    template: Path, destination: Path, ref: str = LATEST, **answers: object
) -> Project:
    """Copy a service from a ref of the template, and commit it."""
    render(template, destination, answers, ref)
    git(destination, "init", "--quiet", "--initial-branch", "main")
    commit(destination, "copied")
    return Project(destination)


@clones_in_memory()
def update(project: Project, ref: str | copier.VcsRef, **data: object) -> None:
    """Update as `copier update --defaults` does: without --trust, conflicts inline."""
    copier.run_update(
        project.path,
        data=data,
        vcs_ref=ref,
        defaults=True,
        overwrite=True,
        unsafe=False,
        quiet=True,
    )


def conflicts(project: Project) -> list[str]:
    """Return the files that an update left in conflict."""
    unmerged = {line.split("\t")[1] for line in git(project.path, "ls-files", "-u").splitlines()}
    rejected = {str(file.relative_to(project.path)) for file in project.path.rglob("*.rej")}
    return sorted(unmerged | rejected)


def tree(project: Project) -> dict[str, str]:
    """Return the contents of a project's files by path, without ignored ones."""
    listed = git(project.path, "ls-files", "-z", "--cached", "--others", "--exclude-standard")
    paths = {name for name in listed.split("\0") if name and (project.path / name).is_file()}
    return {name: (project.path / name).read_text() for name in sorted(paths)}


@dataclass
class Edits:
    """The edits of a team."""

    written: dict[str, list[str]] = field(default_factory=dict)
    """Lines by the file they were written to."""
    deleted: list[str] = field(default_factory=list)

    def lost_in(self, project: Project) -> list[str]:
        """Return the edits that are lost."""
        now = tree(project)
        lost = [
            f"{file}: {line}"
            for file, lines in self.written.items()
            for line in lines
            if line not in now.get(file, "").splitlines()
        ]
        return lost + [f"{file} is back" for file in self.deleted if file in now]


class Team:
    """Edits a project, and records the edits."""

    def __init__(self, project: Project) -> None:
        self.project = project
        self.edits = Edits()

    def append(self, file: str, *lines: str) -> None:
        """Append lines to a file; create it if missing."""
        path = self.project.path / file
        path.parent.mkdir(parents=True, exist_ok=True)
        before = path.read_text() if path.exists() else ""
        path.write_text(before + "".join(f"{line}\n" for line in lines))
        self._remember(file, *lines)

    def insert_after(self, file: str, line: str, *lines: str) -> None:
        """Insert lines after the first one that equals `line`, ignoring indentation."""
        path = self.project.path / file
        before = path.read_text().splitlines()
        place = [text.strip() for text in before].index(line) + 1
        path.write_text("\n".join([*before[:place], *lines, *before[place:]]) + "\n")
        self._remember(file, *lines)

    def replace(self, file: str, old: str, new: str) -> None:
        """Replace the only line that equals `old`, ignoring indentation."""
        path = self.project.path / file
        there = path.read_text()
        (line,) = (text for text in there.splitlines() if text.strip() == old)
        replaced = line.replace(old, new)
        path.write_text(there.replace(f"{line}\n", f"{replaced}\n"))
        self._remember(file, replaced)

    def delete(self, *files: str) -> None:
        for file in files:
            (self.project.path / file).unlink()
        self.edits.deleted += files

    def commit(self) -> Edits:
        commit(self.project.path, "the team's work")
        return self.edits

    def _remember(self, file: str, *lines: str) -> None:
        self.edits.written.setdefault(file, []).extend(line for line in lines if line.strip())
