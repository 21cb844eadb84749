"""The example route: delete it together with `routes/large_response.py`."""

import pytest
from fastapi.testclient import TestClient


@pytest.mark.parametrize("size_kb", [1, 100, 4096])
def test_body_has_the_requested_size(client: TestClient, size_kb: int) -> None:
    response = client.get("/large-response", params={"size_kb": size_kb})

    assert response.status_code == 200
    assert 0 <= len(response.content) - size_kb * 1024 < 512
    assert len(response.json()["orders"]) > size_kb * 3


@pytest.mark.parametrize("size_kb", ["0", "4097", "-1", "1.5", "junk", "", "9" * 5000])
def test_invalid_size_is_422(client: TestClient, size_kb: str) -> None:
    response = client.get("/large-response", params={"size_kb": size_kb})

    assert response.status_code == 422
    assert response.headers["content-type"] == "application/problem+json"
