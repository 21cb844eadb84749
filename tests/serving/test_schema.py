"""Requests that the OpenAPI document allows or forbids cause no server error."""

from collections.abc import Iterator
from typing import Any

import pytest
import schemathesis
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from schemathesis import Case, GenerationMode
from schemathesis.core.result import Ok

from ..harness.project import Project
from ..harness.server import Server, serve
from ..harness.wire import log_of

# Additional routes, typical for a service.
ROUTES = """
from enum import StrEnum
from typing import Annotated

from fastapi import APIRouter, Header, HTTPException, Path, Query, Request
from fastapi.responses import StreamingResponse
from pydantic import BaseModel, Field

from {package}.app import create_app

app = create_app()


class State(StrEnum):
    PLACED = "placed"
    PAID = "paid"


class Order(BaseModel, extra="forbid"):
    number: Annotated[int, Field(ge=1, le=2**31)]
    state: State = State.PLACED
    notes: Annotated[list[Annotated[int, Field(ge=0, le=9)]], Field(max_length=5)] = []


items = APIRouter(prefix="/items/{{item}}")
orders = APIRouter(prefix="/orders/{{number}}")
Number = Annotated[int, Path(ge=1, le=1000)]


@items.put("")
async def put(number: Number, item: Number, order: Order) -> Order:
    return order


@items.get("")
async def search(
    number: Number, item: Number, state: State | None = None, x_limit: Annotated[int, Header()] = 1
) -> list[int]:
    return [number, item, x_limit]


@items.delete("")
async def delete(number: Number, item: Number) -> None:
    raise HTTPException(404, "It is gone")


orders.include_router(items)
app.include_router(orders)


BYTES = {{"application/octet-stream": {{"schema": {{"type": "string", "format": "binary"}}}}}}


@app.post("/upload", openapi_extra={{"requestBody": {{"content": BYTES, "required": True}}}})
async def upload(request: Request) -> int:
    return sum([len(chunk) async for chunk in request.stream()])


PLAIN = {{200: {{"content": {{"text/plain": {{}}}}}}}}


@app.get("/lines", response_class=StreamingResponse, responses=PLAIN)
async def lines(count: Annotated[int, Query(ge=0, le=100)] = 1) -> StreamingResponse:
    return StreamingResponse((f"{{n}}\\n" * 100 for n in range(count)), media_type="text/plain")
"""


@pytest.fixture(scope="module")
def server(project: Project, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """The service with these routes, and the OpenAPI document served."""
    directory = tmp_path_factory.mktemp("schema")
    (directory / "routes.py").write_text(ROUTES.format(package=project.package))
    env = {"PYTHONPATH": str(directory), "WEB_CONCURRENCY": "1", "DOCS": "true"}
    with serve(project, directory / "log", "routes:app", env) as server:
        yield server


OPERATIONS = {
    *("GET /health/live", "GET /health/ready", "GET /large-response", "GET /lines"),
    *("PUT /orders/{number}/items/{item}", "GET /orders/{number}/items/{item}"),
    *("DELETE /orders/{number}/items/{item}", "POST /upload"),
}


def test_all_operations_match_the_openapi_document(server: Server) -> None:
    schema = schemathesis.openapi.from_url(f"http://127.0.0.1:{server.port}/openapi.json")
    found = schema.get_all_operations()
    operations = [result.ok() for result in found if isinstance(result, Ok)]
    assert {operation.label for operation in operations} == OPERATIONS

    for operation in operations:
        valid, wrong = (operation.as_strategy(mode) for mode in GenerationMode)

        @settings(
            max_examples=40,
            deadline=None,
            derandomize=True,
            database=None,
            suppress_health_check=list(HealthCheck),
        )
        @given(st.one_of(valid, wrong))
        def conforms(case: Case[Any]) -> None:
            case.call_and_validate()

        with log_of(server) as log:
            conforms()

        assert not any("exception" in event for event in log)
        assert {event["status"] for event in log if event["event"] == "request"} <= set(range(500))
