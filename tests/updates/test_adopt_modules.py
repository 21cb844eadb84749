"""docs/how-to/adopt.md, followed by modules without a package, and a factory below src/.

Their own tests pass in the old place, with the newest FastAPI and nothing of the template, and in
the new one, on both targets, beside the template's tests.
"""

from pathlib import Path

import pytest

from ..harness.adoption import Grown, Service, adopt, create_service, faults
from ..harness.template import TARGETS

SERVICES = (
    Grown(
        name="shop",
        package="shop",
        shapes=("requirements.in",),
        application="main.py",
        packed=("templates/index.html", "static/shop.css", "data/prices.json"),
    ),
    Grown(
        name="desk",
        package="desk",
        application="application.py",
    ),
)


@pytest.fixture(scope="module", params=SERVICES, ids=lambda grown: grown.name)
def raised(
    request: pytest.FixtureRequest, template: Path, tmp_path_factory: pytest.TempPathFactory
) -> Service:
    """A service with the newest FastAPI, before the copy of the template."""
    return create_service(request.param, template, tmp_path_factory.mktemp("old"))


@pytest.mark.parametrize("target", TARGETS)
def test_existing_service_is_adopted_with_its_tests_files_and_history(
    raised: Service, tmp_path: Path, target: str
) -> None:
    adopted = adopt(raised, tmp_path, target)

    assert adopted.tests == raised.tests
    assert faults(adopted) == []
