"""API documentation and CORS."""

from typing import Any

from fastapi import FastAPI
from starlette.middleware.cors import CORSMiddleware
from starlette.routing import Route

from ..settings import Environment, ServingSettings


def options(settings: ServingSettings) -> dict[str, Any]:
    """Return the arguments for `FastAPI()` that disable the documentation, if it is not served."""
    return {} if is_open(settings) else {"openapi_url": None}


def is_open(settings: ServingSettings) -> bool:
    """Return whether the documentation is served: by default, except in production."""
    if settings.docs is None:
        return settings.environment is not Environment.PRODUCTION
    return settings.docs


def install(app: FastAPI, settings: ServingSettings) -> None:
    """Remove the documentation of `app` unless it is served, and add CORS middleware."""
    if app.openapi_url and not is_open(settings):  # built without `options`
        remove_documentation(app)
    if settings.cors_origins:
        # Without credentials: tokens in headers do not need it, cookies need a deliberate choice.
        app.add_middleware(
            CORSMiddleware,
            allow_origins=settings.cors_origins,
            allow_methods=["*"],
            allow_headers=["*"],
            expose_headers=["X-Request-ID"],
        )


def remove_documentation(app: FastAPI) -> None:
    """Remove the routes of the schema and of its pages, which `FastAPI()` has added."""
    pages = {app.openapi_url, app.docs_url, app.redoc_url, app.swagger_ui_oauth2_redirect_url}
    app.router.routes[:] = [
        route
        for route in app.router.routes
        if not (isinstance(route, Route) and route.path in pages and not route.include_in_schema)
    ]
    app.openapi_url = app.docs_url = app.redoc_url = None
