"""The owner of a file of a service, by docs/reference/ownership.md."""

import re

from .template import ROOT

OWNERSHIP = ROOT / "docs/reference/ownership.md"


def owner(file: str, package: str) -> str:
    """Return the owner of a file: that of the longest matching path on the page."""
    table = dict(re.findall(r"^\| `(.+?)` \| (\w+) \|", OWNERSHIP.read_text(), re.M))
    entries = {path.replace("<package_name>", package): name for path, name in table.items()}
    matching = [
        path for path in entries if file == path or (path.endswith("/") and file.startswith(path))
    ]
    return entries[max(matching, key=len)] if matching else "template"
