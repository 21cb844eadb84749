from unittest.mock import patch

from fastapi.testclient import TestClient
from main import app

import models
import routers.orders

client = TestClient(app)


def test_the_page():
    page = client.get("/")

    assert "<h1>Shop</h1>" in page.text
    assert "/static/shop.css" in page.text
    assert client.get("/static/shop.css").text == "h1 { color: teal }\n"
    assert client.get("/robots.txt").text == open("static/robots.txt").read()


def test_a_price():
    assert client.get("/prices/lamp").json() == {"item": "lamp", "price": 40, "currency": "EUR"}


def test_a_search():
    assert client.post("/search", data={"term": "pen"}).json()["price"] == 2


def test_an_order():
    with patch("routers.orders.send_mail") as send_mail:
        response = client.post("/orders", json={"item": "pen", "email": "ada@example.com"})

    assert response.json() == {"number": 1}
    assert [order.item for order in models.ORDERS] == ["pen"]
    send_mail.assert_called_once_with("ada@example.com")


def test_an_unknown_item(monkeypatch):
    monkeypatch.setattr(routers.orders, "send_mail", lambda address: None)

    response = client.post("/orders", json={"item": "sofa", "email": "ada@example.com"})

    assert response.status_code == 404
    assert response.json() == {"detail": {"item": "sofa", "reason": "unknown"}}


def test_a_picture():
    assert client.post("/pictures", files={"file": b"x" * 1000}).json() == 1000


def test_startup():
    with TestClient(app):
        assert models.EVENTS == ["started"]
