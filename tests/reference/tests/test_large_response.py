"""The example route."""

import pytest
from fastapi.testclient import TestClient


@pytest.mark.parametrize("size_kb", [1, 100, 4096])
def test_body_has_the_size_asked_for(client: TestClient, size_kb: int) -> None:
    response = client.get("/large-response", params={"size_kb": size_kb})

    assert response.status_code == 200
    assert 0 <= len(response.content) - size_kb * 1024 < 512


def test_any_other_size_is_refused(client: TestClient) -> None:
    response = client.get("/large-response", params={"size_kb": "junk"})

    assert response.status_code == 422
    assert response.json() == {"error": "invalid", "fields": ["query.size_kb"]}
