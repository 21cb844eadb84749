"""Check that no requirement in pyproject.toml is lower than the template's.

`uv add -r requirements.txt` silently replaces the template's lower bounds with old pins.
.copier-files.txt records the lower bounds.
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
    """Return the normalised name of a distribution."""
    match = REQUIREMENT.match(requirement)
    return re.sub(r"[-_.]+", "-", match[1]).lower() if match else ""


def extras_of(requirement: str) -> set[str]:
    """Return the extras of a requirement."""
    match = REQUIREMENT.match(requirement)
    return set(re.findall(r"[\w.-]+", match[2] or "")) if match else set()


def floor_of(requirement: str) -> tuple[int, ...]:
    """Return the lowest version that a requirement allows, or () for any."""
    specifiers = REQUIREMENT.sub(r"\3", requirement.partition(";")[0])
    floors = re.findall(r"(?:>=|~=|===?|>)\s*v?(\d+(?:\.\d+)*)", specifiers)
    return max((tuple(map(int, floor.split("."))) for floor in floors), default=())


def lists(pyproject: dict[str, Any]) -> Iterator[list[str]]:
    """Yield each list of requirements; those in one list apply together."""
    project = pyproject.get("project", {})
    yield project.get("dependencies", [])
    yield from project.get("optional-dependencies", {}).values()
    for group in pyproject.get("dependency-groups", {}).values():
        yield [entry for entry in group if isinstance(entry, str)]
    overrides = pyproject.get("tool", {}).get("uv", {}).get("override-dependencies", [])
    yield from ([override] for override in overrides)


def faults() -> Iterator[str]:
    """Yield a line for each requirement that is too low."""
    recorded = (ROOT / ".copier-files.txt").read_text(encoding="utf-8")
    pyproject = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    for needed in re.findall(r"^requires (.+)$", recorded, re.MULTILINE):
        for requirements in lists(pyproject):
            same = [r for r in requirements if name_of(r) == name_of(needed)]
            if any(is_at_least(requirement, needed) for requirement in same):
                continue
            for requirement in same:
                yield (
                    f"pyproject.toml: {requirement} is lower than what the template needs: {needed}"
                )


def is_at_least(requirement: str, needed: str) -> bool:
    """Return whether a requirement has at least the lower bound and extras of the needed one."""
    is_high = floor_of(requirement) >= floor_of(needed)
    return is_high and extras_of(requirement) >= extras_of(needed)


if __name__ == "__main__":
    try:
        messages = list(faults())
    except FileNotFoundError:  # a service that no longer uses the template
        messages = []
    except tomllib.TOMLDecodeError:  # in conflict, which check_update.py reports
        messages = []
    print("".join(f"{message}\n" for message in messages), end="")
    sys.exit(1 if messages else 0)
