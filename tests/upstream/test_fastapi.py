"""FastAPI's own tests pass with the serving layer on each of their applications."""

import pytest

from ..conftest import Render
from .compare import compare
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


@pytest.mark.parametrize("errors", ["problems", "framework"])
def test_only_the_named_tests_fail_under_the_layer(fastapi: Suite, errors: str) -> None:
    found = compare(fastapi, errors)

    print(f"FastAPI {fastapi.version}, error bodies of the {errors}\n{found}")
    assert not found.unexplained + found.stale, str(found)


def test_every_application_of_a_run_has_the_layer(fastapi: Suite) -> None:
    (fastapi.directory / fastapi.name / "layer_check.py").write_text(CHECK)

    outcomes = fastapi.layered("framework", only=["layer_check.py"])
    assert outcomes == {
        "layer_check.py::test_here": "passed",
        "layer_check.py::test_in_child": "passed",
    }
