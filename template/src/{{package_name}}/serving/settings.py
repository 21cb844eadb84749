"""Settings from the environment and from files; an invalid one is reported in one line."""

import re
import sys
from collections.abc import Iterator
from enum import StrEnum
from typing import Annotated, Literal, TypeVar

from pydantic import BeforeValidator, Field, ValidationError
from pydantic_core import ErrorDetails
from pydantic_settings import (
    BaseSettings,
    NoDecode,
    PydanticBaseSettingsSource,
    SettingsConfigDict,
    SettingsError,
)

from . import secret_files
from .budget import REQUEST_TIMEOUT_SECONDS

# uvicorn's exit status for a failed startup, which a process manager should not retry.
STARTUP_FAILURE = 3

# Types of pydantic errors whose message may contain the value.
WITH_INPUT = ("assertion_error", "import_error", "union_tag_invalid", "value_error")
QUOTED = re.compile(r"""(["'])(.+?)\1""")

SettingsT = TypeVar("SettingsT", bound=BaseSettings)


def split(value: object) -> object:
    """Return the items of a comma-separated string; other values unchanged."""
    if not isinstance(value, str):
        return value
    return [name.strip() for name in value.split(",")] if value.strip() else []


def lower(value: object) -> object:
    """Return a string in lower case; other values unchanged."""
    return value.lower() if isinstance(value, str) else value


Name = Annotated[str, BeforeValidator(lower), Field(min_length=1)]
Names = Annotated[tuple[Name, ...], NoDecode, BeforeValidator(split)]
# An origin as browsers send it, without a path.
Origin = Annotated[
    str, BeforeValidator(lower), Field(pattern=r"^(?:\*|https?://[a-z0-9.-]+(?::[0-9]+)?)$")
]
Origins = Annotated[tuple[Origin, ...], NoDecode, BeforeValidator(split)]
# A name or an address as in a URL, without scheme, port and path.
Host = Annotated[
    str,
    BeforeValidator(lower),
    Field(pattern=r"^(?:\*|(?:\*\.)?[a-z0-9_-]+(?:\.[a-z0-9_-]+)*\.?|\[[0-9a-f:.]+\])$"),
]
Hosts = Annotated[tuple[Host, ...], NoDecode, BeforeValidator(split)]
LogLevel = Annotated[Literal["debug", "info", "warning", "error"], BeforeValidator(lower)]
LEVELS = ("debug", "info", "warning", "error")


class Environment(StrEnum):
    """Where the service runs. Faults that are warnings in development are fatal in production."""

    DEVELOPMENT = "development"
    STAGING = "staging"
    PRODUCTION = "production"


class ServingSettings(BaseSettings):
    """Settings of the serving layer. Each field is read from the environment variable of its name.

    If the variable is not set, it is read from the file of that name in `SECRETS_DIR`.
    """

    model_config = SettingsConfigDict(hide_input_in_errors=True)  # it may be a secret

    environment: Environment = Environment.DEVELOPMENT
    # Worker threads per process for plain `def` routes and dependencies; Starlette's default.
    # Lower it if they are CPU-bound, so that the event loop gets enough CPU time.
    threads: int = Field(default=40, ge=1, le=1000)
    metrics_host: str = "127.0.0.1"
    metrics_port: int = Field(default=9090, ge=0, le=65535)  # 0: any free port

    log_level: LogLevel = "info"
    # Values of these names, and of names that end with one of them, are masked in log lines.
    log_masked: Names = (
        *("password", "passwd", "secret", "token", "jwt", "authorization", "cookie"),
        *("api_key", "private_key", "credentials", "session_id"),
    )

    # Seconds to the start of the response; a route may declare its own deadline. The maximum is the
    # template's `request_timeout_seconds`: timeouts of proxy and drain are computed from it.
    request_timeout_seconds: float = Field(
        default=REQUEST_TIMEOUT_SECONDS, gt=0, le=REQUEST_TIMEOUT_SECONDS
    )
    # The default of most proxies. A route overrides it with `max_body_size=`.
    max_body_bytes: int = Field(default=2**20, ge=0)
    # Requests in flight per process, and the same number of WebSockets. Each uses one or two
    # sockets (client, database), so this stays below the usual limit of 1,024 open files.
    max_concurrency: int = Field(default=500, ge=1)
    # `*.example.com` matches every subdomain; `*` accepts every name, if the proxy checks it.
    allowed_hosts: Hosts = Field(default=("*",), min_length=1)

    # Whether to serve /docs, /redoc and /openapi.json; None: except in production.
    docs: bool | None = None
    # Origins that CORS allows; `*` for all.
    cors_origins: Origins = ()

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,
        file_secret_settings: PydanticBaseSettingsSource,
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        """Return pydantic's sources, and files after the environment; the first one wins."""
        files = secret_files.SecretFiles(settings_cls)
        return init_settings, env_settings, dotenv_settings, files, file_secret_settings


def load(settings: type[SettingsT]) -> SettingsT:
    """Return an instance of `settings`; exit with status 3 and one line per fault if it is invalid.

    Each line names the variable and what it accepts, never its value, which may be a secret.
    """
    try:
        return settings()
    except ValidationError as error:
        faults = [f"{variable(settings, e['loc'])}: {accepted(e)}" for e in error.errors()]
    except SettingsError as error:  # a file, or a list or mapping that is not JSON
        faults = str(error).splitlines()
    for fault in faults:
        print(fault, file=sys.stderr)
    raise SystemExit(STARTUP_FAILURE)


def variable(settings: type[BaseSettings], location: tuple[int | str, ...]) -> str:
    """Return the environment variable of a field, with the dotted path of a nested value."""
    name, *inner = map(str, location)
    prefix = settings.model_config.get("env_prefix", "")
    return ".".join([f"{prefix}{name}".upper(), *inner])


def accepted(error: ErrorDetails) -> str:
    """Return the message of an error, with the input masked, which some messages contain."""
    message = error["msg"]
    if error["type"] in WITH_INPUT:
        for text in texts(error["input"]):
            parts = {quoted for _, quoted in QUOTED.findall(message) if quoted in text}
            for part in sorted({text, *parts}, key=len, reverse=True):
                message = message.replace(part, "***")
    return message


def texts(value: object) -> Iterator[str]:
    """Yield each string in a value; short ones are skipped, because they occur in many messages."""
    if isinstance(value, dict | list | tuple):
        for inner in value.values() if isinstance(value, dict) else value:
            yield from texts(inner)
    elif len(text := str(value).strip()) > 3:
        yield text
