import httpx
import pytest


def test_a_ticket(client):
    assert client.post("/v1/tickets", json={"text": "no ink"}).json() == {"number": 1}

    response = client.get("/v1/tickets/1")

    assert response.json() == "no ink"
    assert float(response.headers["x-seconds"]) >= 0


@pytest.mark.parametrize(
    ("path", "status", "body"),
    [
        ("/v1/tickets/9", 404, {"error": "no ticket 9"}),
        ("/v1/tickets/nine", 400, {"error": "invalid", "count": 1}),
        ("/v1/nowhere", 404, {"error": "Not Found"}),
        ("/v1/broken", 500, {"error": "RuntimeError"}),
    ],
)
def test_errors(client, path, status, body):
    response = client.get(path)

    assert (response.status_code, response.json()) == (status, body)


def test_too_many(client):
    for text in ("one", "two"):
        client.post("/v1/tickets", json={"text": text})

    response = client.post("/v1/tickets", json={"text": "three"})

    assert (response.status_code, response.json()) == (429, {"error": "too many"})


def test_a_listener_hears_of_tickets(client):
    with client.websocket_connect("/live") as socket:
        socket.send_text("hi")
        assert socket.receive_json() == {"echo": "hi"}
        client.post("/v1/tickets", json={"text": "no ink"})
        assert socket.receive_json() == {"new": "no ink"}


def test_the_lifespan(app, client):
    assert app.state.open
    assert client.get("/openapi.json").json()["info"] == {"title": "Desk", "version": "4.0.1"}


@pytest.mark.asyncio
async def test_without_a_lifespan(app):
    transport = httpx.ASGITransport(app=app, raise_app_exceptions=False)
    async with httpx.AsyncClient(transport=transport, base_url="http://test") as client:
        assert (await client.get("/v1/tickets/1")).status_code == 500
