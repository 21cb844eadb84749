"""Starlette's own tests pass with the serving layer around each of their applications."""

import pytest

from ..conftest import Render
from .compare import compare
from .suite import IndexUnreachableError, Suite, suite


@pytest.fixture(scope="module")
def starlette(render: Render) -> Suite:
    try:
        return suite("starlette", render(deployment="kubernetes"))
    except IndexUnreachableError as error:
        pytest.skip(str(error))


def test_only_the_named_tests_fail_under_the_layer(starlette: Suite) -> None:
    found = compare(starlette, "framework")  # Starlette has no error bodies to replace

    print(f"Starlette {starlette.version}\n{found}")
    assert not found.unexplained + found.stale, str(found)
