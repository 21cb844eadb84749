"""Liveness and readiness, for whoever restarts the service and whoever sends it traffic."""

from typing import Literal

from fastapi import APIRouter, Response, status

from .readiness import Availability, Readiness, Report

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

    @router.get(
        "/ready",
        response_model_exclude_none=True,
        responses={503: {"model": Report, "description": "Starting, unavailable or draining"}},
    )
    async def ready(response: Response) -> Report:
        """The process wants traffic: 503 while it starts, lacks what it requires, or drains."""
        report = await readiness.report()
        if report.status is not Availability.READY:
            response.status_code = status.HTTP_503_SERVICE_UNAVAILABLE
        return report

    return router
