"""Write every generated file of this repository: `make generated`.

After a change below template/, in copier.yml or in the settings, metrics and fields of the log.
"""

import tempfile
from pathlib import Path

from . import contract, delivered, reference
from .template import ROOT, TARGETS, git, render, snapshot


def manifest(template: Path, target: str) -> str:
    """Return the paths of a service with the default answers, one per line."""
    with tempfile.TemporaryDirectory() as directory:
        answers = {"project_name": "Zebra 9 Ledger", "deployment": target}
        render(template, Path(directory), answers)
        git(Path(directory), "init", "--quiet")
        listed = git(Path(directory), "ls-files", "--others", "--exclude-standard")
    return "".join(f"{name}\n" for name in sorted(map(Path, listed.splitlines())))


def main() -> None:
    """Write them, in the order of their dependencies."""
    delivered.write()
    contract.write()
    with tempfile.TemporaryDirectory() as directory:
        template = snapshot(Path(directory) / "template")
        for target in TARGETS:
            (ROOT / f"tests/manifest/{target}.txt").write_text(manifest(template, target))
    reference.main()


if __name__ == "__main__":
    main()
