"""Each error is a problem (RFC 9457)."""

from pathlib import Path
from typing import Annotated

import pytest
from fastapi import FastAPI, HTTPException, Query, Response
from fastapi.testclient import TestClient


@pytest.fixture(autouse=True)
def routes(app: FastAPI) -> None:
    @app.get("/broken")
    async def broken() -> None:
        raise RuntimeError("the password is hunter2")

    @app.get("/conflict")
    async def conflict() -> None:
        raise HTTPException(409, "taken", headers={"Retry-After": "1"})

    @app.get("/number")
    async def number(n: Annotated[int, Query()]) -> int:
        return n


@pytest.mark.parametrize(
    ("method", "path", "status", "title"),
    [
        ("GET", "/nowhere", 404, "Not Found"),
        ("POST", "/conflict", 405, "Method Not Allowed"),
        ("GET", "/conflict", 409, "Conflict"),
        ("GET", "/broken", 500, "Internal Server Error"),
    ],
)
def test_errors_are_problems(
    client: TestClient, method: str, path: str, status: int, title: str
) -> None:
    response = client.request(method, path)

    assert response.status_code == status
    assert response.headers["content-type"] == "application/problem+json"
    assert response.json()["title"] == title
    assert response.json()["status"] == status


def test_status_of_an_exception_counts_whatever_its_cause(app: FastAPI) -> None:
    @app.get("/missing")
    def missing() -> None:
        try:
            Path("/nowhere/at/all").read_text()
        except FileNotFoundError as error:
            raise HTTPException(404, "no such report") from error

    assert TestClient(app).get("/missing").status_code == 404


def test_headers_of_an_error_are_kept(client: TestClient) -> None:
    response = client.get("/conflict")

    assert response.json()["detail"] == "taken"
    assert response.headers["retry-after"] == "1"


def test_a_validation_error_says_where_but_not_what_was_sent(client: TestClient) -> None:
    response = client.get("/number", params={"n": "hunter2"})

    assert response.status_code == 422
    assert response.json()["errors"][0]["loc"] == ["query", "n"]
    assert "hunter2" not in response.text


def test_an_unhandled_error_says_nothing(client: TestClient) -> None:
    assert "hunter2" not in client.get("/broken").text


def test_the_document_of_the_api_knows_problems(client: TestClient) -> None:
    document = client.get("/openapi.json").json()

    responses = document["paths"]["/number"]["get"]["responses"]
    assert set(responses) == {"200", "default"}
    assert "application/problem+json" in responses["default"]["content"]
    assert "HTTPValidationError" not in str(document)


def test_a_handler_of_the_service_answers_unhandled_errors(app: FastAPI) -> None:
    app.add_exception_handler(Exception, lambda _, __: Response("ours", 500))

    assert TestClient(app, raise_server_exceptions=False).get("/broken").text == "ours"
