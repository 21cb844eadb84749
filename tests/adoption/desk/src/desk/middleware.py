import time

from fastapi import Request, Response
from starlette.middleware.base import BaseHTTPMiddleware, RequestResponseEndpoint


class TimingMiddleware(BaseHTTPMiddleware):
    async def dispatch(self, request: Request, call_next: RequestResponseEndpoint) -> Response:
        request.state.started = time.monotonic()
        response = await call_next(request)
        response.headers["X-Seconds"] = f"{time.monotonic() - request.state.started:.3f}"
        return response
