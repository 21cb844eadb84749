"""Liveness and readiness, for whoever restarts the service and whoever sends it traffic."""

from typing import Literal

from fastapi import APIRouter, Response, status

from .readiness import Availability, Readiness

PATHS = frozenset({"/health/live", "/health/ready"})


def router(readiness: Readiness) -> APIRouter:
    """`/health/live` and `/health/ready`.

    Both are coroutines, so that a full thread pool holds up neither.
    """
    router = APIRouter(prefix="/health", tags=["health"])

    @router.get("/live")
    async def live() -> dict[Literal["status"], Literal["live"]]:
        """The process answers. It never asks a dependency: a restart would not mend one."""
        return {"status": "live"}

    @router.get("/ready", responses={503: {"description": "Starting or draining"}})
    async def ready(response: Response) -> dict[Literal["status"], Availability]:
        """The process wants traffic: 503 while it starts and from the moment it drains."""
        if readiness.availability is not Availability.READY:
            response.status_code = status.HTTP_503_SERVICE_UNAVAILABLE
        return {"status": readiness.availability}

    return router
