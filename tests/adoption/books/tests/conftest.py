import os

os.environ["BOOKS_DATABASE_URL"] = "sqlite:///./test-books.db"
os.environ["BOOKS_API_KEY"] = "secret"

import pytest
from alembic import command
from alembic.config import Config
from fastapi.testclient import TestClient
from sqlalchemy import create_engine
from sqlalchemy.orm import sessionmaker
from sqlalchemy.pool import StaticPool

from app.api.deps import get_db
from app.db.base import Base
from app.main import app

engine = create_engine("sqlite://", connect_args={"check_same_thread": False}, poolclass=StaticPool)
TestingSession = sessionmaker(bind=engine)


@pytest.fixture(scope="session", autouse=True)
def migrated():
    if os.path.exists("test-books.db"):
        os.remove("test-books.db")
    command.upgrade(Config("alembic.ini"), "head")
    yield
    os.remove("test-books.db")


def override_get_db():
    with TestingSession() as session:
        yield session


@pytest.fixture
def client():
    Base.metadata.create_all(bind=engine)
    app.dependency_overrides[get_db] = override_get_db
    yield TestClient(app)
    app.dependency_overrides.clear()
    Base.metadata.drop_all(bind=engine)
