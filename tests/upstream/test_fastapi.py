"""FastAPI's own tests pass with the serving layer on each of their applications."""

import pytest

from ..conftest import Render
from .compare import Comparison, compare, not_passed
from .suite import IndexUnreachableError, Suite, suite

# Also in an interpreter that a test starts.
CHECK = """
import subprocess
import sys

import fastapi

PATHS = "import fastapi; print(*(route.path for route in fastapi.FastAPI().routes))"


def test_here():
    assert "/health/live" in [route.path for route in fastapi.FastAPI().routes]


def test_in_child():
    assert b"/health/live" in subprocess.check_output([sys.executable, "-c", PATHS])
"""


@pytest.fixture(scope="module")
def fastapi(render: Render) -> Suite:
    try:
        return suite("fastapi", render(deployment="kubernetes"))
    except IndexUnreachableError as error:
        pytest.skip(str(error))


@pytest.fixture(scope="module")
def with_problems(fastapi: Suite) -> Comparison:
    """All tests, with the error bodies of the layer."""
    return compare(fastapi, "problems")


def test_only_the_named_tests_fail_under_the_layer(
    fastapi: Suite, with_problems: Comparison
) -> None:
    print(f"FastAPI {fastapi.version}\n{with_problems}")
    assert not with_problems.unexplained + with_problems.stale, str(with_problems)


def test_only_the_named_tests_fail_with_error_bodies_of_fastapi(
    fastapi: Suite, with_problems: Comparison
) -> None:
    """Of those that do not pass with the error bodies of the layer."""
    found = compare(fastapi, "framework", not_passed(with_problems.layered))

    print(f"FastAPI {fastapi.version}, its own error bodies\n{found}")
    assert not found.unexplained + found.stale, str(found)


def test_every_application_of_a_run_has_the_layer(fastapi: Suite) -> None:
    (fastapi.directory / fastapi.name / "layer_check.py").write_text(CHECK)

    outcomes = fastapi.layered("framework", only=["layer_check.py"])
    assert outcomes == {
        "layer_check.py::test_here": "passed",
        "layer_check.py::test_in_child": "passed",
    }
