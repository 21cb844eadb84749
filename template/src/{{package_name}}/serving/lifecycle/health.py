"""Health routes: liveness decides on restarts, readiness on traffic."""

from typing import Literal

from fastapi import APIRouter, FastAPI, Response, status

from ..readiness import Availability, Readiness, Report

PATHS = frozenset({"/health/live", "/health/ready"})


def install(app: FastAPI, readiness: Readiness) -> None:
    """Add `/health/live` and `/health/ready` to `app`.

    Both are coroutines, so that a full thread pool does not delay them. Their router is
    separate, so that dependencies of `app`, such as authentication, and its default response class
    do not apply to them.
    """
    router = APIRouter(
        tags=["health"],
        responses=app.router.responses,
        include_in_schema=app.router.include_in_schema,
        generate_unique_id_function=app.router.generate_unique_id_function,
    )

    @router.get("/health/live")
    async def live() -> dict[Literal["status"], Literal["live"]]:
        """The process responds. It checks no dependency: a restart would not fix one."""
        return {"status": "live"}

    @router.get(
        "/health/ready",
        response_model_exclude_none=True,
        responses={503: {"model": Report, "description": "Starting, unavailable or draining"}},
    )
    async def ready(response: Response) -> Report:
        """The process accepts traffic: 503 while it starts, drains, or a required check fails."""
        report = await readiness.report()
        if report.status is not Availability.READY:
            response.status_code = status.HTTP_503_SERVICE_UNAVAILABLE
        return report

    app.router.routes.extend(router.routes)
