"""Background tasks, Sentry and OpenTelemetry."""

import logging
from collections.abc import Iterator

import pytest
import sentry_sdk
from fastapi import FastAPI
from fastapi.testclient import TestClient

from ledger.app import create_app
from ledger.settings import Settings


@pytest.fixture
def monitored(settings: Settings) -> Iterator[FastAPI]:
    """The application with everything that watches it."""
    settings.sentry_dsn = "http://key@127.0.0.1:1/1"
    settings.record_spans = True
    yield create_app(settings)
    sentry_sdk.init()  # off again


@pytest.fixture
def lines(caplog: pytest.LogCaptureFixture) -> pytest.LogCaptureFixture:
    """The log, from INFO on."""
    caplog.set_level(logging.INFO)
    return caplog


def test_a_notice_is_sent_after_the_answer(client: TestClient) -> None:
    response = client.post("/notices", json={"text": "closed on Monday"})

    assert (response.status_code, response.json()) == (202, "accepted")
    assert client.get("/notices").json() == ["closed on Monday"]


def test_a_notice_that_fails_was_answered(client: TestClient) -> None:
    response = client.post("/notices?fail=true", json={"text": "closed on Monday"})

    assert (response.status_code, response.json()) == (202, "accepted")
    assert client.get("/notices").json() == []


def test_sentry_gets_the_errors_of_routes_and_tasks(
    monitored: FastAPI, lines: pytest.LogCaptureFixture
) -> None:
    with TestClient(monitored, raise_server_exceptions=False) as client:
        client.get("/faults/error", params={"message": "no ink"})
        client.post("/notices?fail=true", json={"text": "news"})

    assert "Sentry event: RuntimeError: no ink" in lines.text
    assert "Sentry event: ConnectionError: no printer for news" in lines.text


def test_a_request_is_a_span(monitored: FastAPI, lines: pytest.LogCaptureFixture) -> None:
    with TestClient(monitored) as client:
        client.get("/notices")

    assert "Span: GET /notices" in lines.messages


def test_nothing_is_recorded_by_default(
    client: TestClient, lines: pytest.LogCaptureFixture
) -> None:
    client.get("/faults/error", params={"message": "no ink"})

    assert "Sentry event" not in lines.text
    assert "Span" not in lines.text
