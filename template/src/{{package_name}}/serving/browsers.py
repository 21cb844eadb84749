"""What browsers are let in to: the API's documentation, and scripts of other origins (CORS)."""

from fastapi import FastAPI
from starlette.middleware.cors import CORSMiddleware
from starlette.routing import Route

from .settings import Environment, ServingSettings


def install(app: FastAPI, settings: ServingSettings) -> None:
    """Close the documentation of `app` in production, let in the origins that are configured."""
    documented = settings.docs
    if documented is None:
        documented = settings.environment is not Environment.PRODUCTION
    if not documented:
        close_documentation(app)
    if settings.cors_origins:
        # Without credentials: a token in a header needs none, cookies take a decision.
        app.add_middleware(
            CORSMiddleware,
            allow_origins=settings.cors_origins,
            allow_methods=["*"],
            allow_headers=["*"],
            expose_headers=["X-Request-ID"],
        )


def close_documentation(app: FastAPI) -> None:
    """Take away the routes of the schema and of its pages, which `FastAPI()` has added."""
    pages = {app.openapi_url, app.docs_url, app.redoc_url, app.swagger_ui_oauth2_redirect_url}
    app.router.routes[:] = [
        route
        for route in app.router.routes
        if not (isinstance(route, Route) and route.path in pages and not route.include_in_schema)
    ]
    app.openapi_url = app.docs_url = app.redoc_url = None
