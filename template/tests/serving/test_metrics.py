"""Metrics of requests, and their labels."""

from pathlib import Path

from fastapi import APIRouter, FastAPI, Request
from fastapi.responses import PlainTextResponse
from fastapi.staticfiles import StaticFiles
from fastapi.testclient import TestClient
from prometheus_client import REGISTRY
from starlette.applications import Starlette
from starlette.routing import Mount, Route


def counted(method: str, route: str, status: int) -> float:
    labels = {"method": method, "route": route, "status": str(status)}
    return REGISTRY.get_sample_value("http_request_duration_seconds_count", labels) or 0


def test_requests_are_counted_by_route_template(app: FastAPI) -> None:
    inner = APIRouter(prefix="/orders")
    inner.add_api_route("/{number}", lambda number: number)
    outer = APIRouter(prefix="/shops/{shop}")
    outer.include_router(inner)
    app.include_router(outer)
    before = counted("GET", "/shops/{shop}/orders/{number}", 200)

    client = TestClient(app)
    client.get("/shops/1/orders/2")
    client.get("/shops/3/orders/4")

    assert counted("GET", "/shops/{shop}/orders/{number}", 200) == before + 2


def test_routes_of_starlette_and_mounts_are_labelled_as_declared(
    app: FastAPI, tmp_path: Path
) -> None:
    def hello(request: Request) -> PlainTextResponse:
        return PlainTextResponse("hello")

    (tmp_path / "logo.svg").write_text("<svg/>")
    inner = Starlette(
        routes=[Route("/hello/{name}", hello), Mount("/files", StaticFiles(directory=tmp_path))]
    )
    app.add_route("/plain/{name}", hello)
    app.mount("/static", StaticFiles(directory=tmp_path))
    app.mount("/inner", inner)
    app.mount("/shops/{shop}", inner)
    asked = {
        "/plain/ann": ("/plain/{name}", 200),
        "/static/logo.svg": ("/static/{path}", 200),
        "/static/no.svg": ("/static/{path}", 404),
        "/inner/hello/ann": ("/inner/hello/{name}", 200),
        "/inner/files/logo.svg": ("/inner/files/{path}", 200),
        "/inner/nowhere": ("/inner/{path}", 404),
        "/shops/7/hello/ann": ("/shops/{shop}/hello/{name}", 200),
    }
    before = [counted("GET", *told) for told in asked.values()]

    client = TestClient(app)
    for path in asked:
        client.get(path)

    after = [counted("GET", *told) for told in asked.values()]
    assert after == [count + 1 for count in before]


def test_undeclared_paths_and_methods_share_a_label(app: FastAPI) -> None:
    before = counted("GET", "unmatched", 404), counted("other", "unmatched", 404)

    client = TestClient(app)
    client.get("/nowhere")
    client.get("/nowhere/else")
    client.request("BREW", "/nowhere")

    after = counted("GET", "unmatched", 404), counted("other", "unmatched", 404)
    assert after == (before[0] + 2, before[1] + 1)


def test_metrics_are_not_on_the_public_port(client: TestClient) -> None:
    assert client.get("/metrics").status_code == 404
