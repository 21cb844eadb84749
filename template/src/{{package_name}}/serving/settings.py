"""Settings from the environment, and one line for each that is wrong."""

import sys
from enum import StrEnum
from typing import Annotated, Literal, TypeVar

from pydantic import BeforeValidator, Field, ValidationError
from pydantic_settings import BaseSettings, NoDecode, SettingsError

from .budget import REQUEST_TIMEOUT_SECONDS

# uvicorn's own exit status for a failed start; a process manager takes it as final.
STARTUP_FAILURE = 3

SettingsT = TypeVar("SettingsT", bound=BaseSettings)


def split(value: object) -> object:
    """The names of a list with commas; nothing is none."""
    if not isinstance(value, str):
        return value
    return [name.strip() for name in value.split(",")] if value.strip() else []


def lower(value: object) -> object:
    """Text in lower case."""
    return value.lower() if isinstance(value, str) else value


Name = Annotated[str, BeforeValidator(lower), Field(min_length=1)]
Names = Annotated[tuple[Name, ...], NoDecode, BeforeValidator(split)]
# As a browser says it: no path.
Origin = Annotated[
    str, BeforeValidator(lower), Field(pattern=r"^(?:\*|https?://[a-z0-9.-]+(?::[0-9]+)?)$")
]
Origins = Annotated[tuple[Origin, ...], NoDecode, BeforeValidator(split)]
LogLevel = Annotated[Literal["debug", "info", "warning", "error"], BeforeValidator(lower)]
LEVELS = ("debug", "info", "warning", "error")


class Environment(StrEnum):
    """Where the service runs; what is a warning in development stops it in production."""

    DEVELOPMENT = "development"
    STAGING = "staging"
    PRODUCTION = "production"


class ServingSettings(BaseSettings):
    """Settings of the serving layer. Each field is the environment variable of its name."""

    environment: Environment = Environment.DEVELOPMENT
    # Worker threads of a process, for plain `def` routes and dependencies: Starlette's default.
    # Fewer for routes that compute, so that they leave the event loop its time.
    threads: int = Field(default=40, ge=1, le=1000)
    metrics_host: str = "127.0.0.1"
    metrics_port: int = Field(default=9090, ge=0, le=65535)  # 0: any that is free

    log_level: LogLevel = "info"
    # Names whose values are masked in every line; each stands for what ends with it, too.
    log_masked: Names = (
        *("password", "passwd", "secret", "token", "jwt", "authorization", "cookie"),
        *("api_key", "private_key", "credentials", "session_id"),
    )

    # Seconds to the start of the response; a route may declare its own deadline. Never longer than
    # the drain and the proxy wait.
    request_timeout_seconds: float = Field(
        default=REQUEST_TIMEOUT_SECONDS, gt=0, le=REQUEST_TIMEOUT_SECONDS
    )
    # What most proxies let through. A route that takes more says so: `max_body_size=`.
    max_body_bytes: int = Field(default=2**20, ge=0)
    # Requests in flight of a process, and as many WebSockets. Each has a socket and mostly opens
    # another, to a database say: this stays below the usual limit of open files.
    max_concurrency: int = Field(default=500, ge=1)
    # `*.example.com` for all below it; `*` leaves it to the proxy, which knows its names.
    allowed_hosts: Names = Field(default=("*",), min_length=1)

    # Whether /docs, /redoc and /openapi.json are there; None: everywhere but in production.
    docs: bool | None = None
    # Origins that CORS allows; `*` for all.
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
