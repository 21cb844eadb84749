import pytest
from desk.application import create_app
from desk.settings import Settings
from fastapi.testclient import TestClient


@pytest.fixture
def app():
    return create_app(Settings(DESK_TICKETS_MAX=2))


@pytest.fixture
def client(app):
    with TestClient(app, raise_server_exceptions=False) as client:
        yield client
