"""Stored figures of each part in bench/results, with time, machine and command."""

import json
import os
import platform
import re
import sys
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from tests.harness.project import Project
from tests.harness.template import ROOT

RESULTS = ROOT / "bench/results"


class MissingError(Exception):
    """A missing requirement of a part, in one line."""


Figures = dict[str, Any]
Table = list[Sequence[str]]
"""A table: head and rows."""
Sizes = tuple[int, ...]
"""The sizes of a measurement: the arguments of its command."""

VERSIONS = """
import importlib.metadata as m, json, platform
print(json.dumps({"python": platform.python_version()} | {
    d.name: d.version for d in m.distributions() if d.name in %r
}))
"""
SERVING = ("fastapi", "starlette", "uvicorn", "gunicorn", "uvloop", "httptools")


def versions(project: Project) -> dict[str, str]:
    """Return the versions of the packages that serve a project's requests."""
    output = project.run(project.program("python"), "-c", VERSIONS % (SERVING,)).stdout
    found: dict[str, str] = json.loads(output)
    return dict(sorted(found.items()))


def machine() -> dict[str, Any]:
    """Return the machine; `load` is its load before the measurement."""
    cpu = re.search(r"^model name\s*: (.*)$", Path("/proc/cpuinfo").read_text(), re.MULTILINE)
    return {
        "cpu": cpu[1] if cpu else platform.machine(),
        "cores": len(os.sched_getaffinity(0)),
        "load": round(os.getloadavg()[0], 1),
        "system": platform.platform(),
        "python": platform.python_version(),
    }


def show(
    measure: Callable[..., Figures], tables: Callable[[Figures], dict[str, Table]], full: Sizes
) -> None:
    """Run the command of a part: measure with the sizes in `sys.argv`, and print."""
    try:
        figures = measure(*arguments(full))
    except MissingError as missing:
        raise SystemExit(str(missing)) from None
    for table in tables(figures).values():
        print(markdown(table))


def arguments(full: Sizes) -> Sizes:
    """Return the sizes in `sys.argv`, completed with the defaults."""
    try:
        given = tuple(map(int, sys.argv[1:]))
    except ValueError:
        raise SystemExit(f"numbers only, up to {len(full)} of them: {full}") from None
    if len(given) > len(full):
        raise SystemExit(f"up to {len(full)} numbers: {full}")
    return (*given, *full[len(given) :])


def write(part: str, command: str, quick: bool, where: dict[str, Any], figures: Figures) -> None:
    """Store the figures of a part."""
    RESULTS.mkdir(exist_ok=True)
    result = {
        "date": datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC"),
        "command": command,
        "quick": quick,
        "machine": where,
        "figures": figures,
    }
    text = json.dumps(result, indent=2, ensure_ascii=False)
    (RESULTS / f"{part}.json").write_text(text + "\n")


def read(part: str) -> dict[str, Any]:
    """Return the stored figures; raises `OSError` if there are none."""
    result: dict[str, Any] = json.loads((RESULTS / f"{part}.json").read_text())
    return result


def markdown(table: Table) -> str:
    """Return a Markdown table, with figures right-aligned."""
    head, *rows = table
    lines = [head, ("---", *["---:"] * (len(head) - 1)), *rows]
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)
