"""Settings of the database, beside those of the serving layer."""

import re
from typing import Annotated

from pydantic import AfterValidator, Field, SecretStr, ValidationInfo, field_serializer
from pydantic import field_validator as validator

from ..process import connections
from ..settings import Environment, ServingSettings

# One host or several, or none if the query has it, as the path of a socket.
HOST = r"(?:[\w.%-]+|\[[0-9a-fA-F:.]+\])?(?::[0-9]{1,5})?"
ADDRESS = re.compile(
    r"postgres(?:ql)?(?:\+\w+)?://(?:[^\s@/?#\[\]]*@)?"
    rf"({HOST}(?:,{HOST})*)/[^\s/?#]+(?:\?[^\s#]*)?"
)
# Reserved for a migration (its own connection, and that of its lock) and for psql.
RESERVED = 4


def usable(url: SecretStr) -> SecretStr:
    """Refuse an invalid address of a PostgreSQL database, without showing its value."""
    found = ADDRESS.fullmatch(url.get_secret_value().strip())
    ports = re.findall(r":(\d+)(?=,|$)", found[1]) if found else []
    if not found or not all(0 < int(port) < 2**16 for port in ports):
        raise ValueError(
            "postgresql://USER:PASSWORD@HOST:PORT/DATABASE, special characters percent-encoded"
        )
    return url


class DatabaseSettings(ServingSettings):
    """Settings of the serving layer and of the database."""

    # Required; `default=` by keyword, so that type checkers accept a call without arguments.
    database_url: Annotated[SecretStr, AfterValidator(usable)] = Field(default=...)
    # Server connections that this service may use; several hosts share them.
    database_connections: int = Field(default=connections.AVAILABLE, ge=5)
    # Pool size of a process; None: its share of those.
    database_pool_size: int | None = Field(default=None, ge=1, validate_default=True)

    @property
    def pool_size(self) -> int:
        """The pool size of this process."""
        return self.database_pool_size or share(self.database_connections)

    @property
    def dsn(self) -> str:
        """The address for a driver of PostgreSQL."""
        scheme, _, rest = self.database_url.get_secret_value().strip().partition("://")
        return f"{scheme.partition('+')[0]}://{rest}"

    @validator("database_pool_size")
    @classmethod
    def within_the_connections(cls, size: int | None, info: ValidationInfo) -> int | None:
        """Refuse more connections than the service may use; in development there is one process."""
        available = info.data.get("database_connections")
        development = info.data.get("environment") in (None, Environment.DEVELOPMENT)
        if available is None or development:
            return size
        pool = size or share(available)
        if total(pool) > available:
            raise ValueError(f"{sum_of(pool)}, above DATABASE_CONNECTIONS={available}")
        return size

    @field_serializer("database_pool_size", when_used="json")
    def with_the_sum(self, _: int | None) -> str:
        """Return what the configuration check prints: the pool, and the sum of all pools."""
        return f"{self.pool_size} # {sum_of(self.pool_size)} of {self.database_connections}"


def share(available: int) -> int:
    """Return the pool size with which all processes stay within `available` connections."""
    return max(1, (available - RESERVED) // connections.processes())


def total(pool: int) -> int:
    """Return the connections in use when every pool is exhausted."""
    return pool * connections.processes() + RESERVED


def sum_of(pool: int) -> str:
    """Return that total as a formula."""
    return f"{pool} x {connections.described()} + {RESERVED} in reserve = {total(pool)}"
