"""Constants of a rendered Python module, without importing it."""

import ast
from pathlib import Path
from typing import Any


def constants(file: Path) -> dict[str, Any]:
    """Return the literals that a module assigns at top level."""
    return {
        target.id: ast.literal_eval(node.value)
        for node in ast.parse(file.read_text()).body
        if isinstance(node, ast.Assign) and isinstance(node.value, ast.Constant)
        for target in node.targets
        if isinstance(target, ast.Name)
    }
