"""What the service answers: forms, files, errors, signatures, static files and rates."""

import hmac
import threading
from collections.abc import Iterator
from functools import partial
from hashlib import sha256
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
from fastapi.testclient import TestClient

from ledger.settings import Settings

from .conftest import KEY

MEBIBYTE = b"x" * 2**20


@pytest.fixture
def rates(settings: Settings, tmp_path: Path) -> Iterator[None]:
    """The other service."""
    (tmp_path / "rates.json").write_text('{"NOK": 11.5}')
    handler = partial(SimpleHTTPRequestHandler, directory=str(tmp_path))
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        settings.rates_url = f"http://127.0.0.1:{server.server_port}/rates.json"
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield
        server.shutdown()
        thread.join()


def test_a_large_file_is_taken_where_the_route_allows_it(client: TestClient) -> None:
    body = MEBIBYTE * 5

    response = client.post("/uploads", data={"title": "plan"}, files={"file": body})

    assert response.json() == {
        "title": "plan",
        "size": len(body),
        "sha256": sha256(body).hexdigest(),
    }


def test_a_small_file_is_taken_everywhere(client: TestClient) -> None:
    assert client.post("/avatars", files={"file": b"123"}).json() == 3


def test_a_large_file_is_refused_elsewhere(client: TestClient) -> None:
    response = client.post("/avatars", files={"file": MEBIBYTE * 2})

    assert (response.status_code, response.json()) == (413, {"error": "too large"})


def test_a_form_is_read(client: TestClient) -> None:
    assert client.post("/feedback", data={"name": "Ada", "stars": "5"}).json() == "Ada: 5"


def test_an_invalid_form_names_its_fields(client: TestClient) -> None:
    response = client.post("/feedback", data={"stars": "many"})

    assert response.status_code == 422
    assert response.json() == {"error": "invalid", "fields": ["body.name", "body.stars"]}


def test_an_error_has_the_body_of_the_service(client: TestClient) -> None:
    response = client.get("/faults/error", params={"message": "a secret"})

    assert (response.status_code, response.json()) == (500, {"error": "failed"})


def test_a_signature_is_checked(client: TestClient) -> None:
    body = b"name=Ada&stars=5"
    headers = {"Content-Type": "application/x-www-form-urlencoded"}
    signature = hmac.new(KEY.encode(), body, "sha256").hexdigest()

    signed = client.post("/feedback", content=body, headers={**headers, "X-Signature": signature})
    forged = client.post("/feedback", content=body, headers={**headers, "X-Signature": "0"})
    unsigned = client.post("/feedback", content=body, headers=headers)

    assert (signed.json(), signed.headers["x-verified"]) == ("Ada: 5", "yes")
    assert (forged.status_code, forged.json()) == (401, {"error": "signature"})
    assert (unsigned.json(), unsigned.headers["x-verified"]) == ("Ada: 5", "no")


def test_a_static_file_is_served(client: TestClient) -> None:
    assert client.get("/static/rates.json").json()["EUR"] == 1.0


@pytest.mark.usefixtures("rates")
def test_a_rate_comes_from_the_other_service(client: TestClient) -> None:
    assert client.get("/rates/NOK").json() == 11.5
    assert client.get("/rates/XXX").status_code == 404


def test_no_rates_are_a_502(settings: Settings, client: TestClient) -> None:
    settings.rates_url = "http://127.0.0.1:1/"  # a reserved port: refused

    assert client.get("/rates/NOK").status_code == 502
