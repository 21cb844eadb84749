"""Run the commands of documentation pages.

A page's ```bash blocks run in order, in one session. A ```text block is expected output of the
preceding commands: each of its lines must occur, and `…` matches anything. A comment on the line
before a block may be:

    <!-- not run: REASON -->
    <!-- only for: WHAT -->         run for services with that feature only
    <!-- exit 1 -->                 the expected exit status
    <!-- stopped at: TEXT -->       stopped when this is printed
"""

import os
import re
import shlex
import shutil
import subprocess
import sys
from dataclasses import dataclass, field
from pathlib import Path

from .project import UV, Project
from .template import GIT_ENVIRONMENT

NOTE = re.compile(r"(not run|only for|exit|stopped at):? (.+)")
FENCE = re.compile(r"^(?:<!-- ([^\n]+) -->\n)?```(\w*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
SHOWN = ("text", "python", "toml", "yaml")
"""Languages of blocks that are not run."""

MARK = "=== the next commands of the page ==="

SESSION = """
set -euo pipefail
exec < /dev/null

ends_with() {
    status=0
    eval "$2" || status=$?
    [ "$status" = "$1" ] || { echo "exit $status instead of $1"; exit 1; }
}

stopped_at() {
    : > "$HOME/printed"
    timeout 300 bash -euc "$2" > "$HOME/printed" 2>&1 &
    until grep --quiet --fixed-strings "$1" "$HOME/printed"; do
        kill -0 $! || { cat "$HOME/printed"; exit 1; }
        sleep 0.1
    done
    kill $!
    wait $! || true
    cat "$HOME/printed"
}
"""


@dataclass
class Commands:
    """A block of commands, its note, and its expected output."""

    text: str
    kind: str = ""
    """One of NOTE, or an empty string."""
    detail: str = ""
    output: list[str] = field(default_factory=list)

    @property
    def script(self) -> str:
        if self.kind in ("exit", "stopped at"):
            function = {"exit": "ends_with", "stopped at": "stopped_at"}[self.kind]
            return shlex.join([function, self.detail, self.text])
        return self.text


def commands(page: str) -> list[Commands]:
    """Return the blocks of commands in a page. Raises `ValueError` for an invalid block."""
    found: list[Commands] = []
    fences = FENCE.findall(page)
    if page.count("```") + page.count("~~~") != 2 * len(fences):
        raise ValueError("a block doesn't begin or end at the start of a line")
    for note, language, text in fences:
        if language == "bash":
            known = NOTE.fullmatch(note)
            if note and not known:
                raise ValueError(f"what does this note mean: {note}")
            found.append(Commands(text, known[1], known[2]) if known else Commands(text))
        elif language not in SHOWN:
            raise ValueError(f"a block of {language or 'nothing'}: are these commands, is it bash?")
        elif language == "text" and found:
            found[-1].output += [line.strip() for line in text.splitlines() if line.strip()]
    return found


def follow(page: str, project: Project, *shapes: str) -> None:
    """Run the commands of a page in a project, or in an empty directory.

    `shapes` are the features of the project, for commands with `only for`. Raises `AssertionError`
    if a command fails or does not print the expected output.
    """
    todo = [
        block
        for block in commands(page)
        if block.kind != "not run" and (block.kind != "only for" or block.detail in shapes)
    ]
    assert todo, "nothing to do"
    session = SESSION + "".join(f"printf '\\n{MARK}\\n'\n{block.script}\n" for block in todo)
    result = project.run("bash", "-c", session, check=False)
    outputs = result.stdout.split(f"\n{MARK}\n")[1:]
    last = todo[len(outputs) - 1].text
    assert result.returncode == 0, f"exit {result.returncode}:\n{last}\n{outputs[-1]}"
    assert len(outputs) == len(todo), f"the session ended with:\n{last}"
    for block, output in zip(todo, outputs, strict=True):
        for line in block.output:
            wanted = ".*".join(map(re.escape, line.split("…")))
            assert re.search(wanted, output), f"{line!r} is not printed:\n{block.text}\n{output}"


def for_other_target(page: str) -> str:
    """Return the page with the names of the two targets swapped."""
    other = {"kubernetes": "vm", "vm": "kubernetes"}
    return re.sub(r"\b(?:kubernetes|vm)\b", lambda word: other[word[0]], page)


def reader(home: Path, template: Path) -> dict[str, str]:
    """Return the environment of a user with git, uv, Python and Copier, and no configuration."""
    programs = home / "bin"
    programs.mkdir(parents=True)
    (programs / "python3").symlink_to(sys.executable)
    for name in ("copier", "git", "uv"):
        program = shutil.which(name, path=f"{Path(sys.executable).parent}:{os.environ['PATH']}")
        assert program, name
        (programs / name).symlink_to(program)
    cache = subprocess.run([UV, "cache", "dir"], check=True, capture_output=True, text=True)
    return {
        "HOME": str(home),
        "PATH": f"{programs}{os.pathsep}{os.defpath}",
        "TEMPLATE": str(template),
        "UV_CACHE_DIR": cache.stdout.strip(),
        **GIT_ENVIRONMENT,
    }
