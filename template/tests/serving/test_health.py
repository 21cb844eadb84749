"""Liveness and readiness."""

from fastapi import FastAPI
from fastapi.testclient import TestClient


def test_live_and_ready_once_started(client: TestClient) -> None:
    assert client.get("/health/live").json() == {"status": "live"}
    assert client.get("/health/ready").json() == {"status": "ready"}
    assert client.head("/health/live").status_code == 200
    assert client.head("/health/ready").status_code == 200


def test_live_but_not_ready_while_starting(app: FastAPI) -> None:
    client = TestClient(app)  # outside of `with`: the lifespan has not started

    assert client.get("/health/live").status_code == 200
    response = client.get("/health/ready")
    assert response.status_code == 503
    assert response.json() == {"status": "starting"}
