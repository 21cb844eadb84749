"""The service in the work tree and in each commit before it, and which of them are updates.

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
    """The service as of a commit, in its folder of the repository: "" or "services/orders/"."""

    commit: str
    folder: str


def git(*arguments: str, stdin: bytes = b"") -> bytes:
    """The output of a git command; raises `CalledProcessError`."""
    command = ["git", "-C", str(ROOT), *arguments]
    return subprocess.run(command, input=stdin, capture_output=True, check=True).stdout  # noqa: S603


def fields(output: bytes) -> list[str]:
    """What a git command lists with -z."""
    return os.fsdecode(output).split("\0")[:-1]


@cache
def present() -> list[str]:
    """The files and links that git tracks, or would track."""
    listed = set(fields(git("ls-files", "-z", "--cached", "--others", "--exclude-standard")))
    paths = {name: ROOT / name for name in sorted(listed)}
    return [name for name, path in paths.items() if path.is_symlink() or path.is_file()]


# ── The service at a commit ───────────────────────────────────────────────────────────────────


@cache
def files(version: Version) -> dict[str, str]:
    """The blobs of its files by path."""
    if version.commit == WORK_TREE:
        links = [name for name in present() if (ROOT / name).is_symlink()]
        names = [name for name in present() if name not in links]
        blobs = git("hash-object", "--", *names).decode().split()
        return dict.fromkeys(links, "a link") | dict(zip(names, blobs, strict=True))
    tree = f"{version.commit}:{version.folder.rstrip('/')}"
    listed = fields(git("ls-tree", "-r", "-z", "--full-tree", tree))
    entries = [entry.split("\t", 1) for entry in listed]
    return {name: about.split()[2] for about, name in entries if about.split()[1] == "blob"}


@cache
def lines(version: Version, name: str) -> list[str]:
    """The lines of a file; none when there is no such file."""
    blob = files(version).get(name)
    if not blob:
        return []
    content = git("cat-file", "blob", blob) if version.commit else (ROOT / name).read_bytes()
    return content.decode(errors="replace").splitlines()


def answers(of: Iterable[str]) -> dict[str, str]:
    """The answers by their questions."""
    found = [re.match(r"([a-z]\w*): *(.*)", line) for line in of]
    return {match[1]: match[2].strip("'\"") for match in found if match}


def delivered(version: Version, *owners: str) -> dict[str, str]:
    """The blobs that the template delivered by path, of files that the owners own."""
    entries = [line.split(" ", 2) for line in lines(version, DELIVERED)]
    return {entry[2]: entry[1] for entry in entries if len(entry) == 3 and entry[0] in owners}


# ── History ───────────────────────────────────────────────────────────────────────────────────


@cache
def commits() -> dict[str, list[str]]:
    """The parents of the work tree and of each commit before it, newest first."""
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
    """The blob of a path of the repository in each commit that has it."""
    wanted = [commit for commit in commits() if commit != WORK_TREE]
    names = "".join(f"{commit}:{path}\n" for commit in wanted)
    found = git("cat-file", "--batch-check", stdin=os.fsencode(names)).splitlines()
    pairs = zip(wanted, found, strict=True)
    return {
        commit: line.split()[0].decode() for commit, line in pairs if line.split()[1] == b"blob"
    }


def former_folder(version: Version, parent: str) -> str | None:
    """Where the service was in a parent; None when it wasn't there."""
    if parent in blobs(version.folder + ANSWERS):
        return version.folder
    top = Path(os.fsdecode(git("rev-parse", "--show-toplevel")).rstrip("\n"))
    package = answers(lines(version, ANSWERS)).get("package_name")
    found = []
    for name in files(Version(parent, "")):
        stayed = version.commit in blobs(name) if version.commit else (top / name).exists()
        if Path(name).name == ANSWERS and not stayed:
            folder = name.removesuffix(ANSWERS)
            if answers(lines(Version(parent, folder), ANSWERS)).get("package_name") == package:
                found.append(folder)
    return found[0] if len(found) == 1 else None


@cache
def history() -> dict[Version, list[Version]]:
    """The versions of the service with those they were made from, newest first."""
    folders = {WORK_TREE: os.fsdecode(git("rev-parse", "--show-prefix")).rstrip("\n")}
    found: dict[Version, list[Version]] = {}
    for commit, parents in commits().items():
        if commit in folders:
            version = Version(commit, folders[commit])
            found[version] = []
            for parent in parents:
                if parent not in folders:
                    folder = former_folder(version, parent)
                    if folder is None:
                        continue
                    folders[parent] = folder
                found[version].append(Version(parent, folders[parent]))
    return found


def answers_blob(version: Version) -> str:
    """The blob of the answers at a version."""
    if version.commit == WORK_TREE:
        return files(version).get(ANSWERS, "")
    return blobs(version.folder + ANSWERS).get(version.commit, "")


def is_update(before: Version, after: Version) -> bool:
    """Whether the answers changed: each update changes them."""
    return "" != answers_blob(after) != answers_blob(before)
