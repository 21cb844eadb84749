"""Bearer tokens."""

from secrets import compare_digest
from typing import Annotated

from fastapi import Depends, HTTPException
from fastapi.security import HTTPAuthorizationCredentials, HTTPBearer

from .state import AppState

Credentials = Annotated[HTTPAuthorizationCredentials, Depends(HTTPBearer())]


async def require_token(credentials: Credentials, state: AppState) -> None:
    """Answer 401 unless the request has the token of the settings."""
    token = state["settings"].api_token
    if token is None or not compare_digest(
        credentials.credentials.encode(), token.get_secret_value().encode()
    ):
        raise HTTPException(401, "Wrong token", headers={"WWW-Authenticate": "Bearer"})
