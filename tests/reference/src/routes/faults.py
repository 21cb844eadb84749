"""Routes that fail."""

import asyncio

from fastapi import APIRouter

router = APIRouter(prefix="/faults", tags=["faults"])


@router.get("/error")
async def fail(message: str) -> None:
    """Raise."""
    raise RuntimeError(message)


@router.get("/slow")
async def wait() -> None:
    """Do not answer before the deadline."""
    await asyncio.Event().wait()
