"""The service's own settings, read from the environment beside those that serve it."""

from .serving.database import DatabaseSettings


class Settings(DatabaseSettings):
    """Add a field here and set it in the environment under the same name, in upper case."""
