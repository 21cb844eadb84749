from fastapi.testclient import TestClient

from app.main import app
from tests.utils import HEADERS, create


def test_a_book_is_found_again(client):
    created = create(client, "Emma")

    assert client.get("/books/1").json() == {**created, "loans": []}
    assert client.get("/books", params={"limit": 1}).json() == [created]


def test_no_such_book(client):
    response = client.get("/books/7")

    assert response.status_code == 404
    assert response.json() == {"detail": "No such book"}


def test_without_a_key(client):
    assert client.post("/books", json={"title": "Emma"}).json() == {"detail": "Forbidden"}


def test_without_a_title(client):
    response = client.post("/books", json={}, headers=HEADERS)

    assert response.status_code == 422
    assert response.json()["detail"][0]["loc"] == ["body", "title"]


def test_a_loan(client):
    create(client, "Emma")

    assert client.post("/loans", json={"book_id": 1, "reader": "Ada"}, headers=HEADERS).status_code == 204
    assert client.get("/books/1").json()["loans"] == [{"reader": "Ada"}]


def test_the_migrated_database_has_no_books():
    assert TestClient(app).get("/books").json() == []


async def test_cors(client):
    response = client.get("/health", headers={"Origin": "https://books.example"})

    assert response.headers["access-control-allow-origin"] == "https://books.example"
    assert response.json() == {"status": "ok"}
