"""The service's own error bodies: `{"error": …}`."""

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse


def install(app: FastAPI) -> None:
    """Register the handlers."""

    @app.exception_handler(RequestValidationError)
    async def invalid(_: Request, error: RequestValidationError) -> JSONResponse:
        fields = [".".join(map(str, each["loc"])) for each in error.errors()]
        return JSONResponse({"error": "invalid", "fields": fields}, 422)

    @app.exception_handler(413)
    async def too_large(_: Request, __: Exception) -> JSONResponse:
        return JSONResponse({"error": "too large"}, 413)

    @app.exception_handler(504)
    async def too_slow(_: Request, __: Exception) -> JSONResponse:
        return JSONResponse({"error": "too slow"}, 504)

    @app.exception_handler(Exception)
    async def failed(_: Request, __: Exception) -> JSONResponse:
        return JSONResponse({"error": "failed"}, 500)
