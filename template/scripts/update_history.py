"""The versions of the service: the work tree and each earlier commit, and which are updates.

For scripts/check_update.py. A commit is an update of the template if it changes the answers. In a
monorepo the service may have been in another folder before.
"""

import os
import re
import subprocess
from collections.abc import Iterable
from functools import cache
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).resolve().parents[1]
ANSWERS = ".copier-answers.yml"
DELIVERED = ".copier-files.txt"
WORK_TREE = ""  # instead of a commit


class Version(NamedTuple):
    """The service at a commit, and its folder in the repository: "" or "services/orders/"."""

    commit: str
    folder: str


def git(*arguments: str, stdin: bytes = b"") -> bytes:
    """Return the output of a git command. Raises `CalledProcessError`."""
    command = ["git", "-C", str(ROOT), *arguments]
    return subprocess.run(command, input=stdin, capture_output=True, check=True).stdout  # noqa: S603


def fields(output: bytes) -> list[str]:
    """Return the NUL-terminated fields in the output of a git command with -z."""
    return os.fsdecode(output).split("\0")[:-1]


@cache
def present() -> list[str]:
    """Return the files and links that git tracks, or would track, relative to `ROOT`."""
    listed = set(fields(git("ls-files", "-z", "--cached", "--others", "--exclude-standard")))
    paths = {name: ROOT / name for name in sorted(listed)}
    return [name for name, path in paths.items() if path.is_symlink() or path.is_file()]


# ── The service at a commit ───────────────────────────────────────────────────────────────────


@cache
def files(version: Version) -> dict[str, str]:
    """Return the blobs of a version's files by path."""
    if version.commit == WORK_TREE:
        links = [name for name in present() if (ROOT / name).is_symlink()]
        names = [name for name in present() if name not in links]
        blobs = git("hash-object", "--", *names).decode().split()
        return dict.fromkeys(links, "a link") | dict(zip(names, blobs, strict=True))
    tree = f"{version.commit}:{version.folder.rstrip('/')}"
    listed = fields(git("ls-tree", "-r", "-z", "--full-tree", tree))
    entries = [entry.split("\t", 1) for entry in listed]
    return {name: info.split()[2] for info, name in entries if info.split()[1] == "blob"}


@cache
def lines(version: Version, name: str) -> list[str]:
    """Return the lines of a file, or an empty list if it does not exist."""
    blob = files(version).get(name)
    if not blob:
        return []
    content = git("cat-file", "blob", blob) if version.commit else (ROOT / name).read_bytes()
    return content.decode(errors="replace").splitlines()


def answers(of: Iterable[str]) -> dict[str, str]:
    """Return the answers by question, from lines of YAML."""
    matches = [re.match(r"([a-z]\w*): *(.*)", line) for line in of]
    return {match[1]: match[2].strip("'\"") for match in matches if match}


def delivered(version: Version, *owners: str) -> dict[str, str]:
    """Return the blobs as rendered by path, for files of these owners (`template`, `team`)."""
    entries = [line.split(" ", 2) for line in lines(version, DELIVERED)]
    return {entry[2]: entry[1] for entry in entries if len(entry) == 3 and entry[0] in owners}


# ── History ───────────────────────────────────────────────────────────────────────────────────


@cache
def commits() -> dict[str, list[str]]:
    """Return the parents of the work tree and of each earlier commit, newest first."""
    heads = [
        head
        for name in ("HEAD", "MERGE_HEAD")
        for head in git("rev-list", "--max-count=1", "--ignore-missing", name).decode().split()
    ]
    listed = git("rev-list", "--topo-order", "--parents", *heads).decode() if heads else ""
    parents = [line.split() for line in listed.splitlines()]
    return {WORK_TREE: heads} | {commit: rest for commit, *rest in parents}


@cache
def blobs(path: str) -> dict[str, str]:
    """Return the blob of a path of the repository by commit, for commits that have it."""
    listed = [commit for commit in commits() if commit != WORK_TREE]
    names = "".join(f"{commit}:{path}\n" for commit in listed)
    objects = git("cat-file", "--batch-check", stdin=os.fsencode(names)).splitlines()
    pairs = zip(listed, objects, strict=True)
    return {
        commit: line.split()[0].decode() for commit, line in pairs if line.split()[1] == b"blob"
    }


def former_folder(version: Version, parent: str) -> str | None:
    """Return the folder of the service in a parent commit, or None if it has none."""
    if parent in blobs(version.folder + ANSWERS):
        return version.folder
    top = Path(os.fsdecode(git("rev-parse", "--show-toplevel")).rstrip("\n"))
    package = answers(lines(version, ANSWERS)).get("package_name")
    candidates = []
    for name in files(Version(parent, "")):
        stayed = version.commit in blobs(name) if version.commit else (top / name).exists()
        if Path(name).name == ANSWERS and not stayed:
            folder = name.removesuffix(ANSWERS)
            if answers(lines(Version(parent, folder), ANSWERS)).get("package_name") == package:
                candidates.append(folder)
    return candidates[0] if len(candidates) == 1 else None


@cache
def history() -> dict[Version, list[Version]]:
    """Return the parents of each version of the service, newest first."""
    folders = {WORK_TREE: os.fsdecode(git("rev-parse", "--show-prefix")).rstrip("\n")}
    versions: dict[Version, list[Version]] = {}
    for commit, parents in commits().items():
        if commit in folders:
            version = Version(commit, folders[commit])
            versions[version] = []
            for parent in parents:
                if parent not in folders:
                    folder = former_folder(version, parent)
                    if folder is None:
                        continue
                    folders[parent] = folder
                versions[version].append(Version(parent, folders[parent]))
    return versions


def answers_blob(version: Version) -> str:
    """Return the blob of a version's answers, or an empty string."""
    if version.commit == WORK_TREE:
        return files(version).get(ANSWERS, "")
    return blobs(version.folder + ANSWERS).get(version.commit, "")


def is_update(before: Version, after: Version) -> bool:
    """Return whether `after` is an update of `before`: every update changes the answers."""
    return "" != answers_blob(after) != answers_blob(before)
