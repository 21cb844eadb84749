"""Errors as problem details (RFC 9457)."""

import logging
from collections.abc import Mapping
from http import HTTPStatus
from typing import Any

from fastapi import FastAPI, Request, Response
from fastapi.exception_handlers import (
    http_exception_handler,
    request_validation_exception_handler,
)
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse, PlainTextResponse
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect

from . import request_id

logger = logging.getLogger(__name__)

# The status that proxies log for a client that disconnected before the response was complete.
CLIENT_CLOSED_REQUEST = 499
# FastAPI's message for any exception while it reads a body.
UNREADABLE_BODY = "There was an error parsing the body"
MEDIA_TYPE = "application/problem+json"
TITLES = {status.value: status.phrase for status in HTTPStatus}
# The schema of errors of each operation, instead of FastAPI's schema of validation errors.
ERROR_SCHEMA = {
    "type": "object",
    "properties": {
        "loc": {"type": "array", "items": {"type": ["string", "integer"]}},
        "msg": {"type": "string"},
        "type": {"type": "string"},
    },
}
SCHEMA = {
    "title": "Problem",
    "type": "object",
    "properties": {
        "title": {"type": "string"},
        "status": {"type": "integer"},
        "detail": {"type": "string"},
        "request_id": {"type": "string"},
        "errors": {"type": "array", "items": ERROR_SCHEMA},
    },
    "required": ["title", "status"],
}


def install(app: FastAPI, *, problems: bool = True) -> None:
    """Return errors of `app` as problems; existing handlers are kept.

    With `problems=False`, errors have FastAPI's bodies: `{"detail": …}`, or text for a 500.
    """
    handlers: dict[Any, Any] = app.exception_handlers
    handlers.setdefault(ClientDisconnect, client_disconnected)
    if not problems:
        if handlers[HTTPException] is http_exception_handler:
            handlers[HTTPException] = framework_error
        return
    app.router.responses["default"] = {
        "description": "A problem (RFC 9457)",
        "content": {MEDIA_TYPE: {"schema": SCHEMA}},
    }
    if handlers[HTTPException] is http_exception_handler:
        handlers[HTTPException] = http_error
    if handlers[RequestValidationError] is request_validation_exception_handler:
        handlers[RequestValidationError] = validation_error
    if 500 not in handlers:
        handlers.setdefault(Exception, server_error)


async def http_error(_: Request, error: HTTPException) -> Response:
    """Return an HTTP exception of the application or the framework as a problem."""
    if error.status_code in (204, 205, 304):  # these have no body
        return Response(status_code=error.status_code, headers=error.headers)
    match unreadable_body(error):
        case ClientDisconnect() as disconnect:
            return await client_disconnected(_, disconnect)
        case OSError() | MemoryError():
            return problem(500)
    return problem(error.status_code, error.detail, headers=error.headers)


async def framework_error(request: Request, error: HTTPException) -> Response:
    """Respond as FastAPI does, unless the body could not be read."""
    match unreadable_body(error):
        case ClientDisconnect() as disconnect:
            return await client_disconnected(request, disconnect)
        case OSError() | MemoryError():
            return PlainTextResponse("Internal Server Error", 500)
    return await http_exception_handler(request, error)


def unreadable_body(error: HTTPException) -> BaseException | None:
    """Return the error that prevented reading the body, or None; log it if the server caused it."""
    if error.status_code != 400 or error.detail != UNREADABLE_BODY:
        return None
    if isinstance(error.__cause__, OSError | MemoryError):  # the disk may be full
        logger.error("The request body could not be read", exc_info=error.__cause__)
    return error.__cause__


async def validation_error(_: Request, error: RequestValidationError) -> Response:
    """Return the location and message of each error, without the input, which may be a secret."""
    errors = [{"loc": e["loc"], "msg": e["msg"], "type": e["type"]} for e in error.errors()]
    return problem(422, "The request is not valid", errors=errors)


async def client_disconnected(_: Request, __: ClientDisconnect) -> Response:
    """Return 499: the client has disconnected."""
    return Response(status_code=CLIENT_CLOSED_REQUEST)


async def server_error(_: Request, __: Exception) -> Response:
    """Return 500 for an exception without a handler; the exception is logged."""
    return problem(500)


def problem(
    status: int,
    detail: object = None,
    *,
    headers: Mapping[str, str] | None = None,
    **extensions: object,
) -> JSONResponse:
    """Return a problem without a `type`: its title is the reason phrase of the HTTP status.

    It contains the request ID, so that a user's report can be found in the log.
    """
    body: dict[str, object] = {"title": TITLES.get(status, "Error"), "status": status}
    if detail and detail != body["title"]:
        body["detail"] = detail
    if request := request_id.current():
        body["request_id"] = request["request_id"]
    return JSONResponse(
        body | extensions, status_code=status, headers=headers, media_type=MEDIA_TYPE
    )
