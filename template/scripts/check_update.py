"""Check what remains to do after an update from the template: before you commit it, and in CI.

    copier update
    python3 scripts/check_update.py

It reports:

- conflicts: conflict markers, *.rej files, unmerged files. A line in .gitattributes exempts a file
  that shows markers as an example: docs/merging.md conflict-marker-size=32
- lost edits: files with your edits that an update deleted or overwrote. Their content must still
  exist, under any name; --keep writes it below kept/. You may delete that after a merge.
- answers that were edited by hand, and uses of an old project_slug or package_name
- the output of scripts/checks/*.py

.copier-files.txt records the files as rendered, so edits are found in any commit. A merge is
compared with each of its parents, so a pull request must contain the content that it keeps.

Exit status: 0 nothing to do, 1 something to do, 2 the check itself failed.
"""

import argparse
import re
import subprocess
import sys
from collections.abc import Iterator
from functools import cache
from typing import NamedTuple

from update_history import (
    ANSWERS,
    DELIVERED,
    ROOT,
    WORK_TREE,
    Version,
    answers,
    blobs,
    delivered,
    fields,
    files,
    git,
    history,
    is_update,
    lines,
    present,
)

MARKER = re.compile(rb"^(<{7,}|>{7,}) ", re.MULTILINE)


class Edit(NamedTuple):
    """An edited file, and the git blob with its content."""

    name: str
    blob: str


# ── Conflicts ─────────────────────────────────────────────────────────────────────────────────


def conflicts() -> Iterator[str]:
    """Yield a line for each file with a conflict."""
    unmerged = {entry.split("\t")[1] for entry in fields(git("ls-files", "-z", "--unmerged"))}
    for name in present():
        if name.endswith(".rej"):
            yield f"{name}: a change that was not applied: make it by hand, then delete this file"
        elif line := first_marker(name):
            unmerged.discard(name)
            yield f"{name}:{line}: a conflict: choose, delete the markers, then git add {name}"
    for name in sorted(unmerged):
        yield f"{name}: unmerged: once it is as you want it, git add {name}"


def first_marker(name: str) -> int | None:
    """Return the line of the first conflict marker with the size in .gitattributes, or None."""
    content = b"" if (ROOT / name).is_symlink() else (ROOT / name).read_bytes()
    markers = list(MARKER.finditer(content))
    if not markers or b"\0" in content:
        return None
    value = fields(git("check-attr", "-z", "conflict-marker-size", "--", name))[2]
    size = int(value) if value.isdecimal() else 7
    starts = [marker.start() for marker in markers if len(marker[1]) == size]
    return content.count(b"\n", 0, starts[0]) + 1 if starts else None


# ── Lost edits ────────────────────────────────────────────────────────────────────────────────


def lost_edits() -> list[Edit]:
    """Return the edits that an update lost and that no later version contains."""
    pending: dict[Version, set[Edit]] = {}
    for version, parents in reversed(history().items()):
        lost = {edit for parent in parents for edit in pending[parent]}
        for parent in parents:
            if is_update(parent, version):
                lost |= deleted(parent, version) | overwritten(parent, version)
            elif version.commit == WORK_TREE:
                lost |= overwritten(parent, version)
        if lost:
            contained = set(files(version).values())
            lost = {edit for edit in lost if edit.blob not in contained}
        pending[version] = lost
    return sorted(lost)


def deleted(before: Version, after: Version) -> set[Edit]:
    """Return the edited files that an update deleted; it never deletes team-owned files."""
    original = delivered(before, "template")
    teams = delivered(before, "team") | delivered(after, "team")
    lost = set()
    for name in files(before).keys() - files(after).keys() - teams.keys():
        blob = files(before)[name]
        if blob != original[name] if name in original else edited_by_commits(name, before, after):
            lost.add(Edit(name, blob))
    return lost


def edited_by_commits(name: str, before: Version, after: Version) -> bool:
    """Return whether both an update and a commit of the team have written a file.

    For files that are not recorded, as before release 0.5.0. If the target changes, a second
    update counts as a commit of the team, because it may contain edits.
    """
    writers = {"update": 0, "team": 0}
    versions, seen = [before], {before}
    while versions:
        version = versions.pop()
        parents = history()[version]
        blob = blobs(version.folder + name).get(version.commit)
        if blob and all(blob != blobs(p.folder + name).get(p.commit) for p in parents):
            by_update = all(is_update(parent, version) for parent in parents)
            writers["update" if by_update else "team"] += 1
        versions += set(parents) - seen
        seen.update(parents)
    switched = deployment(before) != deployment(after)
    edits = writers["team"] + (writers["update"] > 1 and switched)
    return writers["update"] > 0 and edits > 0


def overwritten(before: Version, after: Version) -> set[Edit]:
    """Return the edited files that `copier recopy` replaced with the template's.

    An update never writes team-owned files, so a recopy has replaced at least one of them.
    """
    now = delivered(after, "template", "team")
    reset = {
        edit
        for edit in (Edit(*file) for file in files(before).items())
        if edit.blob != now.get(edit.name) == files(after).get(edit.name, "")
    }
    edited = reset - ever_delivered() if reset else set()
    teams = delivered(after, "team")
    return edited if any(edit.name in teams for edit in edited) else set()


@cache
def ever_delivered() -> set[Edit]:
    """Return the files as rendered in any version, which are not edits."""
    records = {blobs(v.folder + DELIVERED).get(v.commit): v for v in history() if v.commit}
    versions = [version for blob, version in records.items() if blob]
    return {Edit(*file) for v in versions for file in delivered(v, "template", "team").items()}


# ── Answers ───────────────────────────────────────────────────────────────────────────────────


def wrong_answers() -> Iterator[str]:
    """Yield a line for each answer that does not match the files."""
    now = next(iter(history()))
    written = answers(lines(now, ANSWERS))
    if not written:  # the service no longer uses the template
        return
    if DELIVERED not in files(now):
        yield f"{DELIVERED}: missing, lost edits can't be found without it: get it back from git"
        return
    entries = (line.removeprefix("answer ") for line in lines(now, DELIVERED))
    rendered = answers(entries)
    for name in sorted(written.keys() | rendered.keys()):
        if written.get(name) != rendered.get(name):
            yield (
                f"{ANSWERS}: {name} was edited by hand, the files don't follow it: put it back to "
                f"{rendered.get(name)}, then copier update --vcs-ref=:current: -d {name}=…"
            )
    for name in delivered(now, "template"):
        if name.startswith("src/") and name not in files(now):
            yield f"{name}: missing: restore it, or undo an update with answers edited by hand"
    rendered_for = switched_to()
    if written.get("deployment") == rendered.get("deployment") != rendered_for:
        yield (
            f"{ANSWERS}: deployment was edited by hand: undo that and the update since, then "
            f"copier update -d deployment={deployment(now)}, so that {rendered_for}'s files go"
        )
    yield from uses_of_old_names(written)


def deployment(version: Version) -> str | None:
    """Return the target in the answers of a version."""
    return answers(lines(version, ANSWERS)).get("deployment")


def switched_to() -> str | None:
    """Return the target that Copier rendered last: a switch deletes files of the previous one."""
    *_, first = history()
    target = deployment(first)
    for version, parents in reversed(history().items()):
        for parent in parents:
            changed = is_update(parent, version) and deployment(parent) != deployment(version)
            if changed and files(parent).keys() - files(version).keys():
                target = deployment(version)
    return target


def uses_of_old_names(written: dict[str, str]) -> Iterator[str]:
    """Yield a line for each team-owned file that uses an old `package_name` or `project_slug`."""
    now = next(iter(history()))
    updates = [(p, version) for version, parents in history().items() for p in parents]
    earlier = [answers(lines(p, ANSWERS)) for p, version in updates if is_update(p, version)]
    uses = {
        "package_name": r"^\s*(?:from|import)\s+{}\b",
        "project_slug": r"""\b(?:metadata|version|distribution)\(\s*["']{}["']""",
    }
    for question, pattern in uses.items():
        new = written.get(question, "")
        for old in sorted({previous.get(question, new) for previous in earlier} - {new}):
            if question == "package_name" and any(
                name.startswith(f"src/{old}/") for name in files(now)
            ):
                yield f"src/{old}: {question} is {new} now: git mv what is in it to src/{new}"
                continue
            used = re.compile(pattern.format(re.escape(old)), re.MULTILINE)
            for name in files(now):
                if name.startswith("kept/") or not name.endswith(".py"):
                    continue
                if used.search("\n".join(lines(now, name))):
                    yield f"{name}: it uses the name {old}, but {question} is {new} now"


# ── The command ───────────────────────────────────────────────────────────────────────────────


def further_checks() -> Iterator[str]:
    """Yield the lines that the scripts in scripts/checks/ print."""
    for script in sorted((ROOT / "scripts/checks").glob("*.py")):
        command = [sys.executable, str(script)]
        result = subprocess.run(command, capture_output=True, check=False)  # noqa: S603
        if result.returncode not in (0, 1):
            result.check_returncode()
        yield from result.stdout.decode(errors="replace").splitlines()


def faults(keep: bool) -> Iterator[str]:
    """Yield a line for each thing to do; with `keep`, write lost edits below kept/ instead."""
    yield from conflicts()
    yield from wrong_answers()
    yield from further_checks()
    if git("rev-parse", "--is-shallow-repository") == b"true\n":
        print("Older lost edits can't be found, the history is shallow: git fetch --unshallow")
    for name, blob in lost_edits():
        if keep:
            copy = ROOT / "kept" / name
            copy.parent.mkdir(parents=True, exist_ok=True)
            with copy.open("xb") as file:
                file.write(git("cat-file", "blob", blob))
            print(f"{name}: now kept/{name}, commit it with the update")
        else:
            yield f"{name}: an update lost your edits: --keep writes them below kept/"


def main() -> int:
    """Print what remains to do; return the exit status."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--keep", action="store_true", help="write lost edits below kept/")
    try:
        messages = list(faults(parser.parse_args().keep))
    except (OSError, subprocess.CalledProcessError) as error:
        stderr = (getattr(error, "stderr", b"") or b"").decode(errors="replace")
        first_line = stderr.partition("\n")[0]
        print(f"{parser.prog}: {first_line or error}", file=sys.stderr)
        return 2
    for message in messages:
        print(message.encode(errors="replace").decode())
    return 1 if messages else 0


if __name__ == "__main__":
    sys.exit(main())
