"""Compression: what is worth it, and nothing else."""

from collections.abc import AsyncIterator

import pytest
from fastapi import FastAPI, Response
from fastapi.responses import StreamingResponse
from fastapi.testclient import TestClient


@pytest.fixture(autouse=True)
def routes(app: FastAPI) -> None:
    @app.get("/body")
    async def body(size: int, media_type: str = "application/json") -> Response:
        return Response(b"x" * size, media_type=media_type)

    @app.get("/events")
    async def events() -> StreamingResponse:
        async def stream() -> AsyncIterator[str]:
            yield "data: " + "x" * 5000 + "\n\n"

        return StreamingResponse(stream(), media_type="text/event-stream")


def encoding(client: TestClient, path: str, accept: str = "gzip") -> str | None:
    return client.get(path, headers={"Accept-Encoding": accept}).headers.get("content-encoding")


def test_from_1024_bytes_on(client: TestClient) -> None:
    assert encoding(client, "/body?size=1023") is None
    assert encoding(client, "/body?size=1024") == "gzip"


def test_only_for_who_asks(client: TestClient) -> None:
    assert encoding(client, "/body?size=5000", accept="identity") is None


def test_not_what_is_compressed_already(client: TestClient) -> None:
    assert encoding(client, "/body?size=5000&media_type=image/png") is None


def test_not_server_sent_events(client: TestClient) -> None:
    assert encoding(client, "/events") is None
