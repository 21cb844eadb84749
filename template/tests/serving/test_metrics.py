"""What is counted, and under which names."""

from fastapi import APIRouter, FastAPI
from fastapi.testclient import TestClient
from prometheus_client import REGISTRY


def counted(method: str, route: str, status: int) -> float:
    labels = {"method": method, "route": route, "status": str(status)}
    return REGISTRY.get_sample_value("http_request_duration_seconds_count", labels) or 0


def test_requests_are_counted_by_the_whole_route_template(app: FastAPI) -> None:
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


def test_paths_and_methods_that_nobody_declared_share_a_name(app: FastAPI) -> None:
    before = counted("GET", "unmatched", 404), counted("other", "unmatched", 404)

    client = TestClient(app)
    client.get("/nowhere")
    client.get("/nowhere/else")
    client.request("BREW", "/nowhere")

    after = counted("GET", "unmatched", 404), counted("other", "unmatched", 404)
    assert after == (before[0] + 2, before[1] + 1)


def test_metrics_are_not_on_the_public_port(client: TestClient) -> None:
    assert client.get("/metrics").status_code == 404
