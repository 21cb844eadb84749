"""PostgreSQL: an engine for each process, sessions, migrations, metrics.

Installed by `create_app`: `database.install(app, settings, readiness)`. A route takes a
`DatabaseSession`; other code uses `request.state.database.session()`.
"""

from .engine import Database, DatabaseUnavailable
from .lifespan import install
from .sessions import DatabaseSession, session
from .settings import DatabaseSettings

__all__ = [
    "Database",
    "DatabaseSession",
    "DatabaseSettings",
    "DatabaseUnavailable",
    "install",
    "session",
]
