"""Check that no requirement in pyproject.toml is lower than the template's.

`uv add -r requirements.txt` replaces a floor of the template's with an old pin and doesn't say so.
The floors are those that .copier-files.txt records.
"""

import re
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
REQUIREMENT = re.compile(r"\s*([\w.-]+)\s*(?:\[([^]]*)])?([^;]*)")


def name_of(requirement: str) -> str:
    """The normalised name of a distribution."""
    match = REQUIREMENT.match(requirement)
    return re.sub(r"[-_.]+", "-", match[1]).lower() if match else ""


def extras_of(requirement: str) -> set[str]:
    """The extras that it asks for."""
    match = REQUIREMENT.match(requirement)
    return set(re.findall(r"[\w.-]+", match[2] or "")) if match else set()


def floor_of(requirement: str) -> tuple[int, ...]:
    """The lowest version that it allows; () when it allows any."""
    specifiers = REQUIREMENT.sub(r"\3", requirement.partition(";")[0])
    floors = re.findall(r"(?:>=|~=|===?|>)\s*v?(\d+(?:\.\d+)*)", specifiers)
    return max((tuple(map(int, floor.split("."))) for floor in floors), default=())


def required(pyproject: dict[str, Any]) -> Iterator[str]:
    """Every requirement that it lists."""
    project = pyproject.get("project", {})
    yield from project.get("dependencies", [])
    for extra in project.get("optional-dependencies", {}).values():
        yield from extra
    for group in pyproject.get("dependency-groups", {}).values():
        yield from (each for each in group if isinstance(each, str))
    yield from pyproject.get("tool", {}).get("uv", {}).get("override-dependencies", [])


def faults() -> Iterator[str]:
    """A line for each requirement that is too low."""
    recorded = (ROOT / ".copier-files.txt").read_text(encoding="utf-8")
    pyproject = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    for needed in re.findall(r"^requires (.+)$", recorded, re.MULTILINE):
        for found in required(pyproject):
            if name_of(found) != name_of(needed):
                continue
            lower = floor_of(found) < floor_of(needed)
            if lower or not extras_of(found) >= extras_of(needed):
                yield f"pyproject.toml: {found} is lower than what the template needs: {needed}"


if __name__ == "__main__":
    try:
        found = list(faults())
    except FileNotFoundError:  # a service that left the template
        found = []
    except tomllib.TOMLDecodeError:  # in conflict, which check_update.py reports
        found = []
    print("".join(f"{fault}\n" for fault in found), end="")
    sys.exit(1 if found else 0)
