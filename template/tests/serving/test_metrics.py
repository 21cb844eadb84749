"""Metrics of requests, and their labels."""

from pathlib import Path

from fastapi import APIRouter, FastAPI, Request, WebSocket
from fastapi.responses import PlainTextResponse
from fastapi.staticfiles import StaticFiles
from fastapi.testclient import TestClient
from prometheus_client import REGISTRY
from starlette.applications import Starlette
from starlette.routing import Mount, Route
from starlette.types import ASGIApp, Receive, Scope, Send


def counted(method: str, route: str, status: int) -> float:
    """Return the number of requests with these labels."""
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
    app.add_route("/other/{name}", hello)
    app.frontend("/ui", directory=tmp_path, fallback=None)
    app.mount("/static", StaticFiles(directory=tmp_path))
    app.mount("/inner", inner)
    app.mount("/shops/{shop}", inner)
    expected = {
        "/plain/ann": ("/plain/{name}", 200),
        "/other/ann": ("/other/{name}", 200),
        "/ui/logo.svg": ("/ui/{path}", 200),
        "/ui/no.svg": ("/ui/{path}", 404),
        "/static/logo.svg": ("/static/{path}", 200),
        "/static/no.svg": ("/static/{path}", 404),
        "/inner/hello/ann": ("/inner/hello/{name}", 200),
        "/inner/files/logo.svg": ("/inner/files/{path}", 200),
        "/inner/nowhere": ("/inner/{path}", 404),
        "/shops/7/hello/ann": ("/shops/{shop}/hello/{name}", 200),
    }
    before = [counted("GET", route, status) for route, status in expected.values()]

    client = TestClient(app)
    for path in expected:
        client.get(path)

    after = [counted("GET", route, status) for route, status in expected.values()]
    assert after == [count + 1 for count in before]


def test_routes_of_an_included_router_have_its_prefix(app: FastAPI, tmp_path: Path) -> None:
    def hello(request: Request) -> PlainTextResponse:
        return PlainTextResponse("hello")

    (tmp_path / "logo.svg").write_text("<svg/>")
    inner = FastAPI()
    inner.add_api_route("/orders/{number}", lambda number: number)
    router = APIRouter()
    router.add_route("/plain/{name}", hello)
    router.mount("/shops/{shop}", inner)
    router.frontend("/ui", directory=tmp_path, fallback=None)

    @router.websocket("/rooms/{room}")
    async def room(socket: WebSocket) -> None:
        await socket.accept()
        await socket.close(4000)

    app.include_router(router, prefix="/v1")
    expected = {
        "/v1/plain/ann": ("/v1/plain/{name}", 200),
        "/v1/shops/7/orders/8": ("/v1/shops/{shop}/orders/{number}", 200),
        "/v1/shops/7/nowhere": ("/v1/shops/{shop}/{path}", 404),
        "/v1/ui/logo.svg": ("/v1/ui/{path}", 200),
    }
    before = [counted("GET", route, status) for route, status in expected.values()]

    client = TestClient(app)
    for path in expected:
        client.get(path)
    with client.websocket_connect("/v1/rooms/7"):
        pass

    after = [counted("GET", route, status) for route, status in expected.values()]
    assert after == [count + 1 for count in before]
    labels = {"route": "/v1/rooms/{room}", "close_code": "4000"}
    assert REGISTRY.get_sample_value("websocket_duration_seconds_count", labels) == 1


def test_files_mounted_at_the_root_have_one_label(app: FastAPI, tmp_path: Path) -> None:
    (tmp_path / "logo.svg").write_text("<svg/>")
    app.mount("/", StaticFiles(directory=tmp_path))
    before = counted("GET", "/{path}", 200), counted("GET", "/{path}", 404)

    client = TestClient(app)
    client.get("/logo.svg")
    client.get("/no.svg")

    after = counted("GET", "/{path}", 200), counted("GET", "/{path}", 404)
    assert after == (before[0] + 1, before[1] + 1)


class CopyScope:
    """Middleware that passes a copy of the scope."""

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        await self.app({**scope, "copied": True}, receive, send)


def test_middleware_that_copies_the_scope_does_not_hide_the_route(app: FastAPI) -> None:
    app.add_middleware(CopyScope)
    app.add_api_route("/copied/{number}", lambda number: number)

    @app.websocket("/copied-rooms/{room}")
    async def room(socket: WebSocket) -> None:
        await socket.accept()
        await socket.close()

    client = TestClient(app)
    client.get("/copied/1")
    with client.websocket_connect("/copied-rooms/7"):
        pass

    assert counted("GET", "/copied/{number}", 200) == 1
    labels = {"route": "/copied-rooms/{room}", "close_code": "1000"}
    assert REGISTRY.get_sample_value("websocket_duration_seconds_count", labels) == 1


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
