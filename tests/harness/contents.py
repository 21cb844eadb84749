"""Files and configuration of an image."""

import json
import os
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from .images import PODMAN

EVERYTHING = "FROM scratch\nCOPY . /\n"


@contextmanager
def mounted(image: str) -> Iterator[Path]:
    """Yield the root directory of an image, mounted for the block."""
    path = _podman("image", "mount", image)
    try:
        yield Path(path)
    finally:
        _podman("image", "umount", image)


def configuration(image: str) -> dict[str, Any]:
    """Return the configuration of an image: User, Cmd, Env, StopSignal and others."""
    config: dict[str, Any] = json.loads(_podman("image", "inspect", image))[0]["Config"]
    return config


def remove(image: str) -> None:
    """Delete an image, if it exists."""
    _podman("image", "rm", "--force", image)


def build_context(directory: Path, tag: str) -> set[str]:
    """Return the relative paths of the files in the build context `directory`.

    `tag` is the name of a temporary image.
    """
    with TemporaryDirectory() as elsewhere:
        dockerfile = Path(elsewhere) / "Dockerfile"
        dockerfile.write_text(EVERYTHING)
        build = ["buildah", "bud", "--isolation=chroot", f"--tag={tag}", f"--file={dockerfile}"]
        subprocess.run([*build, str(directory)], check=True, capture_output=True)
    try:
        with mounted(tag) as root:
            return files(root)
    finally:
        remove(tag)


def files(root: Path) -> set[str]:
    """Return the paths of the files below a directory, relative to it."""
    found = (Path(folder, name) for folder, _, names in os.walk(root) for name in names)
    return {str(path.relative_to(root)) for path in found}


def _podman(*arguments: str) -> str:
    result = subprocess.run([*PODMAN, *arguments], check=True, capture_output=True, text=True)
    return result.stdout.strip()
