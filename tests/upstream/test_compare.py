"""How a layered run is judged."""

from pathlib import Path

import pytest

from . import compare
from .compare import Comparison

LIST = """\
# The body is
# a problem.
a.py::one
a.py::two[x-y]

# Another reason.
a.py::three
"""


def write(directory: Path, text: str, patch: pytest.MonkeyPatch) -> None:
    (directory / "exceptions").mkdir()
    (directory / "exceptions" / "project.txt").write_text(text)
    patch.setattr(compare, "HERE", directory)


@pytest.mark.parametrize(
    ("bare", "layered", "unexplained"),
    [
        ("passed", "failed", True),
        ("passed", "skipped", True),
        ("passed", "absent", True),
        ("xfailed", "failed", True),
        ("failed", "failed", False),
        ("skipped", "skipped", False),
    ],
)
def test_outcome_that_the_layer_changes_is_unexplained(
    bare: str, layered: str, unexplained: bool
) -> None:
    found = Comparison({"a.py::one": bare}, {"a.py::one": layered}, {})

    assert found.unexplained == ["a.py::one"] * unexplained
    assert ("a.py::one" in str(found)) is unexplained


@pytest.mark.parametrize("name", ["a.py::one[x]", "a.py::one"])
def test_named_test_that_changes_is_explained(name: str) -> None:
    layered = {"a.py::one[x]": "failed", "a.py::one[y]": "passed"}
    found = Comparison({"a.py::one[x]": "passed"}, layered, {name: "a reason"})

    assert found.unexplained == []
    assert found.stale == []


def test_named_parameters_do_not_explain_others() -> None:
    bare = {"a.py::one[x]": "passed", "a.py::one[y]": "passed"}
    layered = {"a.py::one[x]": "failed", "a.py::one[y]": "failed"}

    assert Comparison(bare, layered, {"a.py::one[x]": ""}).unexplained == ["a.py::one[y]"]


@pytest.mark.parametrize("name", ["a.py::one[x]", "a.py::one", "a.py::gone"])
def test_named_test_that_does_not_change_is_stale(name: str) -> None:
    found = Comparison({}, {"a.py::one[x]": "passed"}, {name: "a reason"})

    assert found.stale == [name]
    assert name in str(found)


def test_named_test_that_fails_without_the_layer_may_stay() -> None:
    outcomes = {"a.py::one[x]": "failed"}

    assert Comparison(outcomes, outcomes, {"a.py::one": "a reason"}).stale == []


def test_comment_above_a_test_is_its_reason(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write(tmp_path, LIST, monkeypatch)

    assert compare.exceptions("project") == {
        "a.py::one": "The body is a problem.",
        "a.py::two[x-y]": "The body is a problem.",
        "a.py::three": "Another reason.",
    }


@pytest.mark.parametrize("added", ["\na.py::four\n", "a.py::one\n"])
def test_list_with_a_test_without_reason_or_twice_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, added: str
) -> None:
    write(tmp_path, LIST + added, monkeypatch)

    with pytest.raises(ValueError, match=r"no reason|twice"):
        compare.exceptions("project")
