"""Errors as problem details (RFC 9457)."""

from collections.abc import Mapping
from http import HTTPStatus

from fastapi import FastAPI, Request, Response
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect

from . import request_id

MEDIA_TYPE = "application/problem+json"
TITLES = {status.value: status.phrase for status in HTTPStatus}
# Said of every operation, in place of FastAPI's own schema of a validation error.
SCHEMA = {
    "title": "Problem",
    "type": "object",
    "properties": {
        "title": {"type": "string"},
        "status": {"type": "integer"},
        "detail": {"type": "string"},
        "request_id": {"type": "string"},
        "errors": {
            "type": "array",
            "items": {
                "type": "object",
                "properties": {
                    "loc": {"type": "array", "items": {"type": ["string", "integer"]}},
                    "msg": {"type": "string"},
                    "type": {"type": "string"},
                },
            },
        },
    },
    "required": ["title", "status"],
}


def install(app: FastAPI) -> None:
    """Answer each error of `app` with a problem; what nobody handles is left to `Requests`."""
    app.router.responses["default"] = {
        "description": "A problem (RFC 9457)",
        "content": {MEDIA_TYPE: {"schema": SCHEMA}},
    }

    @app.exception_handler(HTTPException)
    async def http_error(_: Request, error: HTTPException) -> Response:
        if error.status_code in (204, 304):  # these carry no body
            return Response(status_code=error.status_code, headers=error.headers)
        return problem(error.status_code, error.detail, headers=error.headers)

    @app.exception_handler(ClientDisconnect)
    async def client_gone(_: Request, __: ClientDisconnect) -> Response:
        return Response(status_code=499)  # as proxies log it; nobody else reads it

    @app.exception_handler(RequestValidationError)
    async def validation_error(_: Request, error: RequestValidationError) -> Response:
        # Where and what, but not the input: it may hold a secret.
        errors = [{"loc": e["loc"], "msg": e["msg"], "type": e["type"]} for e in error.errors()]
        return problem(422, "The request is not valid", errors=errors)


def problem(
    status: int,
    detail: object = None,
    *,
    headers: Mapping[str, str] | None = None,
    **extensions: object,
) -> JSONResponse:
    """A problem without a type of its own: its title is the phrase of its HTTP status.

    It names the request that runs, so that who reports it can be helped.
    """
    body: dict[str, object] = {"title": TITLES.get(status, "Error"), "status": status}
    if detail and detail != body["title"]:
        body["detail"] = detail
    if request := request_id.current():
        body["request_id"] = request["request_id"]
    return JSONResponse(
        body | extensions, status_code=status, headers=headers, media_type=MEDIA_TYPE
    )
