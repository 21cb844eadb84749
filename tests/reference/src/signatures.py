"""Signed requests: `X-Signature` holds the HMAC of the body."""

import hmac

from fastapi import Request, Response
from fastapi.responses import JSONResponse
from pydantic import SecretStr
from starlette.middleware.base import BaseHTTPMiddleware, RequestResponseEndpoint
from starlette.types import ASGIApp


class SignatureMiddleware(BaseHTTPMiddleware):
    """Answers 401 to a wrong signature, and says which requests were verified."""

    def __init__(self, app: ASGIApp, *, key: SecretStr) -> None:
        super().__init__(app)
        self.key = key.get_secret_value().encode()

    async def dispatch(self, request: Request, call_next: RequestResponseEndpoint) -> Response:
        signature = request.headers.get("x-signature")
        if signature is not None:
            expected = hmac.new(self.key, await request.body(), "sha256").hexdigest()
            if not hmac.compare_digest(signature.encode(), expected.encode()):
                return JSONResponse({"error": "signature"}, 401)
        response = await call_next(request)
        response.headers["X-Verified"] = "no" if signature is None else "yes"
        return response
