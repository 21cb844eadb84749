from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from starlette.exceptions import HTTPException


class TicketMissing(Exception):
    def __init__(self, number: int) -> None:
        self.number = number


def register(app: FastAPI) -> None:
    @app.exception_handler(TicketMissing)
    async def missing(_: Request, error: TicketMissing) -> JSONResponse:
        return JSONResponse({"error": f"no ticket {error.number}"}, 404)

    @app.exception_handler(RequestValidationError)
    async def invalid(_: Request, error: RequestValidationError) -> JSONResponse:
        return JSONResponse({"error": "invalid", "count": len(error.errors())}, 400)

    app.add_exception_handler(Exception, failed)


async def failed(_: Request, error: Exception) -> JSONResponse:
    return JSONResponse({"error": type(error).__name__}, 500)


async def http_error(_: Request, error: HTTPException) -> JSONResponse:
    return JSONResponse({"error": error.detail}, error.status_code)
