"""The example route: delete it together with `routes/notes.py`."""

import pytest
from fastapi.testclient import TestClient


@pytest.mark.parametrize("text", ["milk", "Grüße, 世界", "x" * 10_000])
def test_created_note_can_be_read(client: TestClient, text: str) -> None:
    stored = client.post("/notes", json={"text": text})

    assert stored.status_code == 201
    assert stored.json()["text"] == text
    assert client.get(f"/notes/{stored.json()['id']}").json() == stored.json()
    assert client.get("/notes").json() == [stored.json()]


def test_each_test_starts_without_rows(client: TestClient) -> None:
    assert client.get("/notes").json() == []


@pytest.mark.parametrize("text", ["", "x" * 10_001, "a\x00b", None])
def test_invalid_text_is_422(client: TestClient, text: str | None) -> None:
    assert client.post("/notes", json={"text": text}).status_code == 422
    assert client.get("/notes").json() == []


@pytest.mark.parametrize(
    ("note_id", "status"), [("1000000", 404), ("0", 422), ("9" * 30, 422), ("junk", 422)]
)
def test_unknown_or_invalid_id_is_an_error(client: TestClient, note_id: str, status: int) -> None:
    assert client.get(f"/notes/{note_id}").status_code == status
