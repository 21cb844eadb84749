"""What an update from the template may leave behind: run this before you commit one; CI does too.

    copier update
    python3 scripts/check_update.py

It finds what is not decided yet: conflict markers, *.rej files, unmerged files. And it finds lost
edits: a file that an update brings no more is deleted by Copier, whatever you had written into
it. Its content has to be somewhere, in the commit of the update or in one after it; --keep puts
it below kept/. Once that is merged it is yours to use and to delete.

A commit that changes .copier-answers.yml counts as Copier's and any other as the team's, along
the first parents: commit a copy, and an update, whole and before you edit what it brought.

Exit status: 0 all is well, 1 there is something to do, 2 it can't be told.
"""

import argparse
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
ANSWERS = ".copier-answers.yml"
MARKER = re.compile(rb"^(?:<{7}|>{7}) ", re.MULTILINE)


def git(*arguments: str, stdin: bytes = b"") -> bytes:
    """The output of a git command; raises `CalledProcessError`."""
    command = ["git", "-C", str(ROOT), *arguments]
    return subprocess.run(command, input=stdin, capture_output=True, check=True).stdout  # noqa: S603


def fields(output: bytes) -> list[str]:
    """What a git command lists with -z."""
    return os.fsdecode(output).split("\0")[:-1]


def present() -> list[str]:
    """The files that are under version control or could be; links are left out."""
    listed = set(fields(git("ls-files", "-z", "--cached", "--others", "--exclude-standard")))
    paths = {name: ROOT / name for name in sorted(listed)}
    return [name for name, path in paths.items() if path.is_file() and not path.is_symlink()]


def undecided() -> Iterator[str]:
    """A line for each file that an update left for somebody to finish."""
    unmerged = {entry.split("\t")[1] for entry in fields(git("ls-files", "-z", "--unmerged"))}
    for name in present():
        content = (ROOT / name).read_bytes()
        if name.endswith(".rej"):
            yield f"{name}: a change that found no place: make it by hand, then delete this file"
        elif marker := MARKER.search(content):
            unmerged.discard(name)
            line = content.count(b"\n", 0, marker.start()) + 1
            yield f"{name}:{line}: a conflict: choose, delete the markers, then git add {name}"
    for name in sorted(unmerged):
        yield f"{name}: unmerged: once it is as you want it, git add {name}"


def states() -> Iterator[dict[str, str]]:
    """The blobs of all files by path: of none, then after each commit, then as they are now."""
    ancestry = ("--first-parent", "--parents", "--reverse", "--ignore-missing")  # none yet, perhaps
    commits = git("rev-list", *ancestry, "HEAD").splitlines()
    pairs = b"".join(b" ".join(commit.split()[:2]) + b"\n" for commit in commits)
    changes = git("diff-tree", "--stdin", "--root", "--relative", "-r", "-z", stdin=pairs)
    tree: dict[str, str] = {}
    rest = iter(fields(changes))
    for field in rest:
        if not field.startswith(":"):  # another commit
            yield tree.copy()
        elif field.endswith("D"):
            del tree[next(rest)]
        else:
            tree[next(rest)] = field.split()[3]
    yield tree
    names = present()
    blobs = git("hash-object", "--", *names).decode().split()
    yield dict(zip(names, blobs, strict=True))


def lost() -> list[tuple[str, str]]:
    """The files that went with an update, the team's edits in them: their paths and blobs."""
    copiers: set[str] = set()
    teams: set[str] = set()
    gone: set[tuple[str, str]] = set()
    for before, after in pairwise(states()):
        written = {name for name, _ in after.items() - before.items()}
        deleted = before.keys() - after.keys()
        if ANSWERS in written:
            gone |= {(name, before[name]) for name in copiers & teams & deleted}
            copiers |= written
        else:
            teams |= written
        copiers -= deleted
        teams -= deleted
        if gone:
            somewhere = set(after.values())
            gone = {(name, blob) for name, blob in gone if blob not in somewhere}
    return sorted(gone)


def faults(keep: bool) -> Iterator[str]:
    """A line for each thing to do; `keep` does what it can."""
    yield from undecided()
    if git("rev-parse", "--is-shallow-repository") == b"true\n":
        print("Lost edits can't be looked for, the history is shallow: git fetch --unshallow")
        return
    for name, blob in lost():
        if keep:
            copy = ROOT / "kept" / name
            copy.parent.mkdir(parents=True, exist_ok=True)
            with copy.open("xb") as file:
                file.write(git("cat-file", "blob", blob))
            print(f"{name}: now kept/{name}, commit it with the update")
        else:
            yield f"{name}: your edits went with an update: --keep puts them below kept/"


def main() -> int:
    """Print what is to be done; the exit status."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--keep", action="store_true", help="put lost edits below kept/")
    try:
        found = list(faults(parser.parse_args().keep))
    except (OSError, subprocess.CalledProcessError) as error:
        said = getattr(error, "stderr", b"").decode(errors="replace").partition("\n")[0]
        print(f"{parser.prog}: {said or error}", file=sys.stderr)
        return 2
    for fault in found:
        print(fault.encode(errors="replace").decode())
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main())
