"""Metrics of the connection pool."""

import asyncio
from typing import TYPE_CHECKING

from prometheus_client import Histogram

from ..observability.metrics import gauge

if TYPE_CHECKING:
    from .engine import Database

SIZE = gauge("database_pool_size", "Connections that the pool may hold")
IN_USE = gauge("database_pool_in_use", "Connections in use, sampled each second")
WAITING = gauge("database_pool_waiting", "Requests that wait for a connection, sampled likewise")
WAIT = Histogram(
    "database_pool_wait_seconds",
    "Time to get a connection from the pool",
    buckets=(0.001, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5),
)


async def sample(database: "Database") -> None:
    """Sample the pool every second, until cancelled."""
    while True:
        SIZE.set(database.pool.size())
        IN_USE.set(database.pool.checkedout())
        WAITING.set(database.pool.waiting)
        await asyncio.sleep(1)
