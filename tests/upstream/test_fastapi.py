"""FastAPI's own tests pass with the serving layer on each of their applications."""

import pytest

from ..conftest import Render
from .compare import compare
from .suite import IndexUnreachableError, Suite, suite


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
