"""What the tests share."""

import tempfile
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import httpx2
import pytest
from fastapi import FastAPI
from fastapi.testclient import TestClient
from pydantic import SecretStr
from starlette.types import Receive, Scope, Send

from ledger.app import create_app
from ledger.settings import Settings

TOKEN = "a-token"  # noqa: S105
KEY = "a-key"


@pytest.fixture
def settings() -> Iterator[Settings]:
    """Settings with secrets and an empty database, in memory where the system allows it."""
    memory = "/dev/shm" if Path("/dev/shm").is_dir() else None  # noqa: S108
    with tempfile.TemporaryDirectory(dir=memory) as directory:
        yield Settings(
            api_token=SecretStr(TOKEN),
            signature_key=SecretStr(KEY),
            database_file=Path(directory) / "ledger.db",
        )


@pytest.fixture
def app(settings: Settings) -> FastAPI:
    """The application."""
    return create_app(settings)


@pytest.fixture
def client(app: FastAPI) -> Iterator[TestClient]:
    """A client of the started application, which answers errors instead of raising them."""
    with TestClient(app, raise_server_exceptions=False) as client:
        yield client


@pytest.fixture
def member(client: TestClient) -> TestClient:
    """The same client, with the token."""
    client.headers["Authorization"] = f"Bearer {TOKEN}"
    return client


@pytest.fixture
def anyio_backend() -> str:
    """Coroutines run on asyncio alone, as the service does."""
    return "asyncio"


@pytest.fixture
async def async_client(app: FastAPI, anyio_backend: str) -> AsyncIterator[httpx2.AsyncClient]:
    """A client of the started application in the event loop of the test."""
    async with app.router.lifespan_context(app) as state:

        async def started(scope: Scope, receive: Receive, send: Send) -> None:
            await app({**scope, "state": state}, receive, send)

        transport = httpx2.ASGITransport(started)
        async with httpx2.AsyncClient(transport=transport, base_url="http://test") as client:
            yield client
