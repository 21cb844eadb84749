"""The workflows, this repository's and the rendered ones: well-formed, pinned, few permissions."""

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from .conftest import Render
from .harness.template import ROOT

SOURCES = ("template", "kubernetes", "vm")


@pytest.fixture(params=SOURCES)
def workflows(request: pytest.FixtureRequest, render: Render) -> list[Path]:
    """Those of this repository, then of each target's project."""
    project = ROOT if request.param == "template" else render(deployment=request.param).path
    return sorted(Path(project, ".github/workflows").iterdir())


def findings(*workflows: Path) -> Iterator[str]:
    """What the tools have to say about workflows; both work without a network."""
    for tool, *options in (
        ("zizmor", "--offline", "--pedantic", "--strict-collection", "--no-progress", "--quiet"),
        ("check-jsonschema", "--builtin-schema=vendor.github-workflows"),
    ):
        program = Path(sys.executable).with_name(tool)
        done = subprocess.run([program, *options, *workflows], capture_output=True, text=True)
        if done.returncode:
            yield done.stdout + done.stderr


def test_the_tools_find_nothing(workflows: list[Path]) -> None:
    assert "ci.yml" in [workflow.name for workflow in workflows]
    assert list(findings(*workflows)) == []


@pytest.mark.parametrize(
    ("right", "wrong", "said"),
    [
        ("timeout-minutes", "timeout-minute", "'timeout-minute' was unexpected"),
        ("@3d3c42e5aac5ba805825da76410c181273ba90b1", "@v7", "not pinned to a hash"),
        ("contents: read", "contents: write", "permission"),
    ],
)
def test_the_tools_do_find_something(tmp_path: Path, right: str, wrong: str, said: str) -> None:
    text = Path(ROOT, ".github/workflows/ci.yml").read_text()
    worse = tmp_path / ".github/workflows/ci.yml"
    worse.parent.mkdir(parents=True)
    assert right in text
    worse.write_text(text.replace(right, wrong))

    assert said in "".join(findings(worse))
