"""Check that no file uses a module that the template has moved or no longer installs.

An update keeps edited lines, such as `from .serving.limits import Limits`, with which the service
would not start.
"""

import re
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
FOLDERS = ("deploy", "scripts", "src", "tests")
# Distributions that releases before 0.5.0 installed, and the pattern of their uses.
DROPPED = {
    "orjson": r"^\s*(?:from|import)\s+orjson\b|\bORJSONResponse\b",
    "uvicorn-worker": r"""^\s*(?:from|import)\s+uvicorn_worker\b|["']uvicorn_worker\.\w""",
}
# `from .serving.worker import x`, `"orders.serving.worker.Worker"`; the last name is no module.
IMPORT = r"^\s*from\s+(?:\.+|{package}\.)serving\.([\w.]+)\s+import\b"
TEXT = r"""["']{package}\.serving\.([\w.]+)\.\w+["']"""


def faults() -> Iterator[str]:
    """Yield a line for each use of a module that does not exist."""
    pyproject = (ROOT / "pyproject.toml").read_text(encoding="utf-8")
    declared = str(tomllib.loads(pyproject)).lower().replace("_", "-")
    dropped = {name: use for name, use in DROPPED.items() if f"'{name}" not in declared}
    for file in sorted(file for folder in FOLDERS for file in (ROOT / folder).rglob("*.py")):
        text, name = file.read_text(encoding="utf-8", errors="replace"), file.relative_to(ROOT)
        if file == Path(__file__).resolve():
            continue
        for needed, use in dropped.items():
            if re.search(use, text, re.MULTILINE):
                yield f"{name}: it needs {needed}, which the template installed: uv add {needed}"
        for serving in ROOT.glob("src/*/serving"):
            for pattern in (IMPORT, TEXT):
                uses = pattern.format(package=re.escape(serving.parent.name))
                for module in sorted(set(re.findall(uses, text, re.MULTILINE))):
                    # In tests, a relative import may be of tests/serving.
                    if exists(serving, module) or exists(file.parent / "serving", module):
                        continue
                    if moved := place(serving, module):
                        yield f"{name}: serving.{module} is serving.{moved} now"
                    elif name.parts[0] != "deploy":  # left by a change of the target
                        yield f"{name}: serving.{module} does not exist any more"


def exists(serving: Path, module: str) -> bool:
    """Return whether a module or package exists below serving/."""
    path = serving.joinpath(*module.split("."))
    return path.is_dir() or path.with_suffix(".py").is_file()


def place(serving: Path, module: str) -> str:
    """Return the new name of a moved module; empty if no module, or several, have its last name."""
    files = [*serving.rglob(f"{module.rpartition('.')[2]}.py")]
    return ".".join(files[0].relative_to(serving).with_suffix("").parts) if len(files) == 1 else ""


if __name__ == "__main__":
    try:
        messages = list(faults())
    except (FileNotFoundError, tomllib.TOMLDecodeError):  # no project, or in conflict
        messages = []
    print("".join(f"{message}\n" for message in messages), end="")
    sys.exit(1 if messages else 0)
