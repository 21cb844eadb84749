"""The service's own settings, in addition to those of the serving layer."""

from .serving.database import DatabaseSettings


class Settings(DatabaseSettings):
    """Add a field here and set it in the environment under the same name, in upper case."""
