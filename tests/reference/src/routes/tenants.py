"""The pages of a tenant: an application of its own, mounted below its name."""

from fastapi import FastAPI, Request
from sqlalchemy import select

from ..database import DatabaseSession
from ..models import Account


def create_app() -> FastAPI:
    """Build the application."""
    app = FastAPI(title="Tenant")

    @app.get("/accounts")
    def list_accounts(request: Request, session: DatabaseSession) -> list[str]:
        """List the names of the tenant's accounts."""
        tenant = request.path_params["tenant"]
        names = select(Account.name).where(Account.tenant == tenant).order_by(Account.id)
        return list(session.scalars(names))

    return app
