import pytest
from helpers import forget

import models


@pytest.fixture(autouse=True)
def empty():
    yield
    forget(models)
