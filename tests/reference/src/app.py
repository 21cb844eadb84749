"""The application: settings, serving layer, routes."""

from functools import partial
from importlib.metadata import metadata
from pathlib import Path

from fastapi import FastAPI
from fastapi.staticfiles import StaticFiles

from . import errors, monitoring, serving
from .lifespan import lifespan
from .routes import (
    accounts,
    faults,
    large_response,
    notices,
    rates,
    room,
    tenants,
    transfers,
    uploads,
)
from .settings import Settings
from .signatures import SignatureMiddleware


def create_app(settings: Settings | None = None) -> FastAPI:
    """Build the application; `settings` are read from the environment when left out.

    Exits with status 3 and a line for each fault when the environment is not usable.
    """
    settings = settings or serving.load(Settings)
    monitoring.start_sentry(settings)
    about = metadata("ledger")  # from pyproject.toml
    app = FastAPI(
        title="Ledger",
        description=about["Summary"],
        version=about["Version"],
        lifespan=partial(lifespan, settings=settings),
    )
    serving.install(app, settings)
    errors.install(app)
    if settings.signature_key:
        app.add_middleware(SignatureMiddleware, key=settings.signature_key)
    app.include_router(accounts.router)
    app.include_router(faults.router)
    app.include_router(large_response.router)
    app.include_router(notices.router)
    app.include_router(rates.router)
    app.include_router(room.router)
    app.include_router(transfers.router)
    app.include_router(uploads.router)
    app.mount("/tenants/{tenant}", tenants.create_app())
    app.mount("/static", StaticFiles(directory=Path(__file__).parent / "static"))
    monitoring.record_spans(app, settings)
    return app


app = create_app()
