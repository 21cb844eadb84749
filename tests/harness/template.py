"""The template as users get it: a tagged clone, including uncommitted changes."""

import os
import re
import subprocess
import tempfile
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import copier
import yaml

ROOT = Path(__file__).parents[2]
LATEST = "v9999.0.0"
TARGETS = ("kubernetes", "vm")
PYTHONS = ("3.11", "3.12", "3.13", "3.14", "3.15")

# No git identity and no user settings: neither may be needed.
GIT_ENVIRONMENT = {
    "GIT_AUTHOR_NAME": "Tests",
    "GIT_AUTHOR_EMAIL": "tests@example.com",
    "GIT_COMMITTER_NAME": "Tests",
    "GIT_COMMITTER_EMAIL": "tests@example.com",
    "GIT_CONFIG_GLOBAL": os.devnull,
    "GIT_CONFIG_SYSTEM": os.devnull,
}


def git(directory: Path, *arguments: str) -> str:
    """Return the output of a git command; raises `CalledProcessError`."""
    command = ["git", "-C", str(directory), *arguments]
    environment = {**os.environ, **GIT_ENVIRONMENT}
    return subprocess.run(
        command, env=environment, check=True, capture_output=True, text=True
    ).stdout


def commit(directory: Path, message: str) -> None:
    """Commit everything."""
    git(directory, "add", "--all")
    git(directory, "commit", "--quiet", "--allow-empty", "--no-verify", "--message", message)


def releases(repository: Path = ROOT) -> dict[str, str]:
    """Return the commit of each release by version, oldest first.

    Found by the subject `Release X.Y.Z`, because a clone may lack tags.
    """
    log = git(repository, "log", "--reverse", "--format=%H %s")
    return {found[2]: found[1] for found in re.finditer(r"^(\w+) Release ([\d.]+)$", log, re.M)}


def one_target_each(refs: Iterable[str]) -> list[tuple[str, str]]:
    """Pair each ref with one target, in turn, and the last one with each target."""
    *others, last = refs
    in_turn = [(ref, TARGETS[n % len(TARGETS)]) for n, ref in enumerate(others)]
    return [*in_turn, *((last, target) for target in TARGETS)]


def snapshot(destination: Path) -> Path:
    """Clone this repository to `destination`, with uncommitted changes, tag releases; return it."""
    git(ROOT, "clone", "--quiet", "--no-local", str(ROOT), str(destination))
    changed = git(ROOT, "diff", "-z", "--name-only", "--no-renames", "HEAD")  # staged ones as well
    changed += git(ROOT, "ls-files", "-z", "--others", "--exclude-standard")
    for name in filter(None, changed.split("\0")):
        source, target = ROOT / name, destination / name
        target.unlink(missing_ok=True)
        if source.exists():
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_bytes(source.read_bytes())
            target.chmod(source.stat().st_mode)
    commit(destination, "uncommitted changes")
    git(destination, "tag", LATEST)
    for version, release in releases(destination).items():
        git(destination, "tag", "--force", f"v{version}", release)
    return destination


def next_release(template: Path, tag: str = "v9999.1.0") -> str:
    """Commit the changes in a clone and tag them as another release; return the tag."""
    commit(template, f"Next: {tag}")
    git(template, "tag", tag)
    return tag


def questions(template: Path = ROOT) -> dict[str, dict[str, object]]:
    """Return the questions and computed values of copier.yml, by name."""
    config = yaml.safe_load((template / "copier.yml").read_text())
    return {name: value for name, value in config.items() if not name.startswith("_")}


@contextmanager
def clones_in_memory() -> Iterator[None]:
    """Let Copier clone the template to memory, where there is a /dev/shm.

    It deletes each clone, and ext4 searches past all files of the last minutes for each new one.
    """
    before, memory = tempfile.tempdir, "/dev/shm"
    tempfile.tempdir = memory if os.access(memory, os.W_OK) else before
    try:
        yield
    finally:
        tempfile.tempdir = before


@clones_in_memory()
def render(
    template: Path, destination: Path, answers: Mapping[str, object], ref: str = LATEST
) -> None:
    """Copy the template as `copier copy --defaults` does: without --trust.

    Raises `KeyError` for an answer to an unknown question, which Copier ignores.
    """
    if unknown := answers.keys() - questions(template).keys():
        raise KeyError(f"no such question: {', '.join(sorted(unknown))}")
    copier.run_copy(
        str(template),
        destination,
        data=dict(answers),
        vcs_ref=ref,
        defaults=True,
        unsafe=False,
        quiet=True,
    )
