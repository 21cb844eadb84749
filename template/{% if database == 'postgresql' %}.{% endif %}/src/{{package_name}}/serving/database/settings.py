"""Settings of the database, in addition to those of the serving layer."""

import re
from typing import Annotated

from pydantic import AfterValidator, Field, SecretStr, ValidationInfo, field_serializer
from pydantic import field_validator as validator

from ..process import connections
from ..settings import Environment, ServingSettings

# One or several hosts, or none if the query string has it, such as the path of a socket.
HOST = r"(?:[\w.%-]+|\[[0-9a-fA-F:.]+\])?(?::[0-9]{1,5})?"
ADDRESS = re.compile(
    r"postgres(?:ql)?(?:\+\w+)?://(?:[^\s@/?#\[\]]*@)?"
    rf"({HOST}(?:,{HOST})*)/[^\s/?#]+(?:\?[^\s#]*)?"
)
# Reserved for a migration (one connection, and one for its lock) and for psql.
RESERVED = 4


def validated(url: SecretStr) -> SecretStr:
    """Return the address of a PostgreSQL database. Raises `ValueError` if it is invalid."""
    match = ADDRESS.fullmatch(url.get_secret_value().strip())
    ports = re.findall(r":(\d+)(?=,|$)", match[1]) if match else []
    if not match or not all(0 < int(port) < 2**16 for port in ports):
        raise ValueError(
            "postgresql://USER:PASSWORD@HOST:PORT/DATABASE, special characters percent-encoded"
        )
    return url


class DatabaseSettings(ServingSettings):
    """Settings of the serving layer and of the database."""

    # Required; `default=` by keyword, so that type checkers accept a call without arguments.
    database_url: Annotated[SecretStr, AfterValidator(validated)] = Field(default=...)
    # Database connections that all processes of this service together may use.
    database_connections: int = Field(default=connections.AVAILABLE, ge=5)
    # Pool size of a process; None: an equal share of these connections.
    database_pool_size: int | None = Field(default=None, ge=1, validate_default=True)

    @property
    def pool_size(self) -> int:
        """The pool size of this process."""
        return self.database_pool_size or share(self.database_connections)

    @property
    def dsn(self) -> str:
        """The address in the form that PostgreSQL drivers accept."""
        scheme, _, rest = self.database_url.get_secret_value().strip().partition("://")
        return f"{scheme.partition('+')[0]}://{rest}"

    @validator("database_pool_size")
    @classmethod
    def within_available(cls, size: int | None, info: ValidationInfo) -> int | None:
        """Reject pools that exceed the available connections, except in development."""
        available = info.data.get("database_connections")
        development = info.data.get("environment") in (None, Environment.DEVELOPMENT)
        if available is None or development:
            return size
        pool = size or share(available)
        if total(pool) > available:
            raise ValueError(f"{sum_of(pool)}, above DATABASE_CONNECTIONS={available}")
        return size

    @field_serializer("database_pool_size", when_used="json")
    def with_total(self, _: int | None) -> str:
        """Return the text for the configuration check: the pool size, and the sum of all pools."""
        return f"{self.pool_size} # {sum_of(self.pool_size)} of {self.database_connections}"


def share(available: int) -> int:
    """Return the largest pool size for which `total` is at most `available`, but at least 1."""
    return max(1, (available - RESERVED) // connections.processes())


def total(pool: int) -> int:
    """Return the number of connections if every pool is full, plus the reserve."""
    return pool * connections.processes() + RESERVED


def sum_of(pool: int) -> str:
    """Return the formula of `total`, for messages."""
    return f"{pool} x {connections.described()} + {RESERVED} in reserve = {total(pool)}"
