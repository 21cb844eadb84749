"""Settings from the environment, and one line for each that is wrong."""

import sys
from enum import StrEnum
from typing import Annotated, TypeVar

from pydantic import BeforeValidator, Field, ValidationError
from pydantic_settings import BaseSettings, NoDecode, SettingsError

# uvicorn's own exit status for a failed start; a process manager takes it as final.
STARTUP_FAILURE = 3

SettingsT = TypeVar("SettingsT", bound=BaseSettings)


def split(value: object) -> object:
    """The parts of a text between its commas."""
    if isinstance(value, str):
        return [part.strip() for part in value.split(",") if part.strip()]
    return value


# As a browser says it: lower case, no path.
Origin = Annotated[str, Field(pattern=r"^(?:\*|https?://[a-z0-9.-]+(?::[0-9]+)?)$")]
Origins = Annotated[tuple[Origin, ...], NoDecode, BeforeValidator(split)]


class Environment(StrEnum):
    """Where the service runs; what is a warning in development stops it in production."""

    DEVELOPMENT = "development"
    STAGING = "staging"
    PRODUCTION = "production"


class ServingSettings(BaseSettings):
    """What serves the service. Each field is the environment variable of its name in upper case."""

    environment: Environment = Environment.DEVELOPMENT
    # Of a process, for plain functions. Forty of them, anyio's default, starve the
    # event loop and with it the health checks when they compute; more is for those that wait.
    threads: int = Field(default=4, ge=1, le=1000)
    metrics_host: str = "127.0.0.1"
    metrics_port: int = Field(default=9090, ge=0, le=65535)  # 0: any that is free
    # Whether /docs, /redoc and /openapi.json are there; None: but in production.
    docs: bool | None = None
    # Whose scripts may ask; * for everybody's.
    cors_origins: Origins = ()


def load(settings: type[SettingsT]) -> SettingsT:
    """Read `settings` from the environment, or exit with status 3 and a line for each fault.

    A line names the variable and says what it accepts, never what it held: that may be a secret.
    """
    try:
        return settings()
    except ValidationError as error:
        faults = [f"{variable(settings, e['loc'])}: {e['msg']}" for e in error.errors()]
    except SettingsError as error:  # a list or a mapping that is not JSON
        faults = [str(error)]
    for fault in faults:
        print(fault, file=sys.stderr)
    raise SystemExit(STARTUP_FAILURE)


def variable(settings: type[BaseSettings], location: tuple[int | str, ...]) -> str:
    """The environment variable of a field; of what is inside of it, with a dotted path behind."""
    name, *inner = map(str, location)
    prefix = settings.model_config.get("env_prefix", "")
    return ".".join([f"{prefix}{name}".upper(), *inner])
