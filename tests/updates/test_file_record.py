""".copier-files.txt lists each rendered file with its blob."""

import re

import pytest

from ..conftest import Render
from ..harness import delivered
from ..harness.ownership import owner
from ..harness.template import ROOT, git
from ..harness.update import tree

ANSWERS: list[dict[str, object]] = [
    {"deployment": "vm"},
    {"deployment": "kubernetes"},
    {"deployment": "vm", "traces": True, "ci": "gitlab", "description": "Übersicht " * 15},
    {"deployment": "kubernetes", "route": "ingress", "dependency_updates": "dependabot"},
    {"deployment": "vm", "ci": "none", "dependency_updates": "none"},
]


def test_template_of_the_file_record_is_up_to_date() -> None:
    assert (ROOT / delivered.SOURCE).read_text() == delivered.record(), (
        "python -m tests.harness.delivered"
    )


@pytest.mark.parametrize("answers", ANSWERS, ids=str)
def test_file_record_has_each_rendered_file(render: Render, answers: dict[str, object]) -> None:
    project = render(**answers)
    record = (project.path / delivered.RECORD).read_text()
    recorded = {
        path: (whose, blob)
        for whose, blob, path in re.findall(r"^(team|template) (\w{40}) (.+)$", record, re.M)
    }

    left_out = {delivered.RECORD, ".copier-answers.yml", "uv.lock"}
    names = sorted(tree(project).keys() - left_out)
    blobs = git(project.path, "hash-object", "--", *names).split()
    whose = ["team" if owner(n, project.package) == "team" else "template" for n in names]

    assert recorded == dict(zip(names, zip(whose, blobs, strict=True), strict=True))
    assert re.findall(r"^answer deployment: (.*)$", record, re.M) == [answers["deployment"]]


def test_file_record_has_the_lower_bounds_of_pyproject(render: Render) -> None:
    project = render(deployment="vm")
    record = (project.path / delivered.RECORD).read_text()
    pyproject = (project.path / "pyproject.toml").read_text()

    floors = re.findall(r"^requires (.+)$", record, re.M)

    assert len(floors) > 10
    assert all(f'    "{floor}",' in pyproject for floor in floors)
    assert any(floor.startswith("pydantic>=") for floor in floors)
