"""The service's own settings, in addition to those of the serving layer."""

from .serving import ServingSettings


class Settings(ServingSettings):
    """Add a field here and set it in the environment under the same name, in upper case."""
