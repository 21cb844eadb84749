"""docs/reference/kubernetes.md lists each field of the rendered manifests with its value."""

import re
from collections.abc import Iterator
from typing import Any

import pytest
import yaml

from bench.timeline import PICTURE, draw, phases

from ..conftest import Render
from ..harness.project import Project
from ..harness.template import ROOT
from ..kubernetes.test_manifests import kustomize

PAGE = (ROOT / "docs/reference/kubernetes.md").read_text()

HEADING = re.compile(r"^### (\w+)(?:: `(.+)`)?$")
ROW = re.compile(r"^\| `([^`]+)` \| `([^`]+)` \|")
STEP = re.compile(r"'([^']+)'|(\w+)|\[(\d+)\]")

RULE = ("alert", "record")
"""Keys that name a Prometheus rule."""

COMMON_LABELS = ("app.kubernetes.io/part-of", "app.kubernetes.io/managed-by")
"""Fields of every object, described in a sentence."""

Path = tuple[str | int, ...]


def parse(path: str) -> Path:
    """Return the steps of a path such as `a.'b.c'[0]`."""
    return tuple(
        int(index) if index else quoted or word for quoted, word, index in STEP.findall(path)
    )


def rows(page: str) -> Iterator[tuple[str, Path, object]]:
    """Yield each row of the tables: the kind, the path of a field in it, its value."""
    kind, prefix = "", ""
    for line in page.splitlines():
        if heading := HEADING.match(line):
            kind, prefix = heading[1], heading[2] or ""
        elif line.startswith("#"):
            kind = ""
        elif kind and (row := ROW.match(line)):
            yield kind, parse(f"{prefix}.{row[1]}"), yaml.safe_load(row[2])


def leaves(tree: object, path: Path = ()) -> Iterator[Path]:
    """Yield the paths of all values."""
    if isinstance(tree, dict | list):
        for step, branch in tree.items() if isinstance(tree, dict) else enumerate(tree):
            yield from leaves(branch, (*path, step))
    else:
        yield path


def at(path: Path, tree: Any) -> object:
    for step in path:
        tree = tree[step]
    return tree


@pytest.fixture(scope="module")
def orders(render: Render) -> Project:
    """The service of the page."""
    return render(project_name="Orders API", deployment="kubernetes")


@pytest.fixture(scope="module")
def manifests(orders: Project) -> dict[str, Any]:
    """Its manifests in production by their kind, with no hash after a name."""
    found = kustomize(orders.path / "deploy/kubernetes/overlays/production")
    hashed = re.compile(r"orders-api-[a-z0-9]{10}(?=['\"])")
    return {m["kind"]: yaml.safe_load(hashed.sub("orders-api", repr(m))) for m in found}


def differences(page: str, manifests: dict[str, Any]) -> Iterator[str]:
    """Yield errors and omissions of a page."""
    told: dict[str, list[Path]] = {kind: [] for kind in manifests}
    for kind, path, value in rows(page):
        told[kind].append(path)
        try:
            rendered = at(path, manifests[kind])
        except (KeyError, IndexError):
            yield f"{kind} {path}: is not there"
        else:
            if rendered != value:
                yield f"{kind} {path}: {value!r}, but it is {rendered!r}"
    for kind, manifest in manifests.items():
        for path in leaves(manifest):
            if not known(path) and not any(path[: len(row)] == row for row in told[kind]):
                yield f"{kind} {path}: is left out"


def known(path: Path) -> bool:
    """Return whether a field is a name, or one that every manifest has."""
    return (
        path[0] in ("apiVersion", "kind")
        or path[:2] in (("metadata", "name"), ("metadata", "namespace"))
        or "app.kubernetes.io/name" in path
        or (path[:2] == ("metadata", "labels") and path[2] in COMMON_LABELS)
        or (path[-1] == "name" and path[-3:-1] == ("containers", 0))
        # The page lists the alerts; their expressions and texts are only in the file.
        or ("rules" in path and path[:2] == ("spec", "groups") and path[-1] not in RULE)
    )


def test_each_field_in_the_page_has_the_rendered_value(manifests: dict[str, Any]) -> None:
    assert list(differences(PAGE, manifests)) == []


@pytest.mark.parametrize(
    ("right", "wrong", "said"),
    [
        ("`Saturated` | 80", "`Sated` | 80", "'Sated', but it is 'Saturated'"),
        ("| `spec.groups[1].rules[7].alert` |", "| |", "7, 'alert'): is left out"),
        ("| `46` |", "| `45` |", "45, but it is 46"),
        ("| `spec.maxUnavailable` |", "| `spec.minAvailable` |", "minAvailable'): is not there"),
        ("| `spec.minReadySeconds` | `5` |", "", "minReadySeconds'): is left out"),
    ],
)
def test_wrong_value_in_the_page_is_reported(
    manifests: dict[str, Any], right: str, wrong: str, said: str
) -> None:
    assert PAGE.count(right) == 1
    assert said in "\n".join(differences(PAGE.replace(right, wrong), manifests))


def test_picture_shows_the_rendered_values(orders: Project) -> None:
    """To update it: .venv/bin/python -m bench.timeline"""
    assert PICTURE.read_text() == draw(phases(orders))
    assert draw(phases(orders)).count("<rect") == 5


def test_shutdown_phases_add_up_to_the_grace_period(render: Render, orders: Project) -> None:
    longer = render(deployment="kubernetes", request_timeout_seconds=300)

    assert sum(phase.seconds for phase in phases(orders)) == 46
    assert sum(phase.seconds for phase in phases(longer)) == 316
    assert all(phase.seconds > 0 for phase in phases(longer))
