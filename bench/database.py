"""The cost of the serving layer for a request that reads a PostgreSQL row by its primary key.

    nice -n -15 .venv/bin/python -m bench.database [ROUNDS [SECONDS]]

Bare FastAPI has the same SQLAlchemy, driver and size of the pool, and the same route, on uvicorn.
The service runs as on each target: by uvicorn on Kubernetes, by gunicorn with one worker on a VM.
Servers and PostgreSQL share one core, wrk has another; figures are medians over the rounds. The
second table is the migration step when there is nothing to migrate.
"""

import os
import statistics
import time
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory

from tests.harness import postgresql
from tests.harness.project import Project

from . import meter
from .meter import Row
from .probes import rendered
from .results import Figures, Table, show, versions
from .serving import started

FULL = (7, 3)
PATH = "/notes/1"
POOL = 2

BARE = """
import os
from collections.abc import AsyncIterator
from typing import Annotated

from fastapi import Depends, FastAPI, HTTPException
from sqlalchemy.ext.asyncio import AsyncSession, async_sessionmaker, create_async_engine

from {package}.models import Note
from {package}.routes.notes import StoredNote

engine = create_async_engine(
    os.environ["DATABASE_URL"].replace("postgresql:", "postgresql+asyncpg:"),
    pool_size={pool},
    max_overflow=0,
    pool_use_lifo=True,
)
sessions = async_sessionmaker(engine, expire_on_commit=False)
app = FastAPI()
app.add_api_route("/health/live", lambda: None)
app.add_api_route("/health/ready", lambda: None)

async def session() -> AsyncIterator[AsyncSession]:
    async with sessions() as opened:
        yield opened
        await opened.commit()

@app.get("/notes/{{note_id}}")
async def read(
    note_id: int, session: Annotated[AsyncSession, Depends(session, scope="function")]
) -> StoredNote:
    note = await session.get(Note, note_id)
    if note is None:
        raise HTTPException(404)
    return StoredNote.model_validate(note)
"""
COMPLETE = """
from {package} import serving
from {package}.app import create_app

app = create_app()
"""


def main() -> None:
    show(measure, tables, FULL)


def measure(rounds: int, seconds: int) -> Figures:
    """Medians over the rounds of each server, and of the migration step."""
    one, other = meter.cores()
    everywhere = os.sched_getaffinity(0)
    with TemporaryDirectory(dir=meter.memory_directory()) as directory, ExitStack() as stack:
        stack.callback(os.sched_setaffinity, 0, everywhere)
        projects = [service(Path(directory, target), target) for target in ("kubernetes", "vm")]
        os.sched_setaffinity(0, {one})
        server = stack.enter_context(postgresql.server(projects[0]))
        os.sched_setaffinity(0, everywhere)
        settings = {
            "DATABASE_URL": server.url,
            "DATABASE_POOL_SIZE": str(POOL),
            "DATABASE_CONNECTIONS": "100",
            "WEB_CONCURRENCY": "1",
        }
        migrate(projects[0], settings)
        server.sql("INSERT INTO notes (text) VALUES ('read')")
        rows = []
        on_kubernetes, on_vm = (replace(project, environment=settings) for project in projects)
        for name, project, code in (
            ("bare", on_kubernetes, BARE),
            ("bare again", on_kubernetes, BARE),
            ("complete, kubernetes", on_kubernetes, COMPLETE),
            ("complete, vm", on_vm, COMPLETE),
        ):
            application = code.format(package=project.package, pool=POOL)
            launched = started(project, name, application, {}, one)
            rows.append(Row(name, stack.enter_context(launched)))
        for row in rows:
            row.server.wait_until_ready()
        os.sched_setaffinity(0, {other})
        meter.in_turn(rows, PATH, rounds, seconds)
        steps = [migrate(projects[0], settings) for _ in range(rounds)]
        return {
            "rounds": rounds,
            "seconds": seconds,
            "versions": versions(projects[0]),
            "rows": [row.figures() for row in rows],
            "migration_seconds": round(statistics.median(steps), 2),
        }


def service(directory: Path, target: str) -> Project:
    """Render a service with a database for a target, in its own directory."""
    directory.mkdir()
    project = rendered(directory, deployment=target, database="postgresql")
    project.uv("sync", "--quiet")
    return project


def migrate(project: Project, settings: dict[str, str]) -> float:
    """Run the migration; return its duration in seconds."""
    begun = time.perf_counter()
    command = (project.program("python"), "-m", f"{project.package}.serving.database", "migrate")
    project.run(*command, env=settings)
    return time.perf_counter() - begun


def tables(figures: Figures) -> dict[str, Table]:
    """Each server relative to the bare one, and the migration step."""
    head = ("", "CPU per request", "of bare", "requests per second", "of bare", "p99")
    rows = figures["rows"]
    bare = rows[0]
    lines = [
        (
            row["name"],
            f"{row['cpu_us']:.0f} µs",
            f"x {row['cpu_us'] / bare['cpu_us']:.2f}",
            f"{row['per_second']:,}",
            f"x {row['per_second'] / bare['per_second']:.2f}",
            f"{row['p99_ms']:.1f} ms",
        )
        for row in rows
    ]
    step = f"{figures['migration_seconds']:.2f} s"
    return {
        "database": [head, *lines],
        "migration": [("the migration step", "takes"), ("nothing to migrate", step)],
    }


if __name__ == "__main__":
    main()
