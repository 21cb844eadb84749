"""What a rendered Python module says, without importing it."""

import ast
from pathlib import Path
from typing import Any


def constants(file: Path) -> dict[str, Any]:
    """The literals that a module names at its top."""
    return {
        target.id: ast.literal_eval(node.value)
        for node in ast.parse(file.read_text()).body
        if isinstance(node, ast.Assign) and isinstance(node.value, ast.Constant)
        for target in node.targets
        if isinstance(target, ast.Name)
    }
