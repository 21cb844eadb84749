"""Check that each overlay sets the hostname of its HTTPRoute or Ingress.

Without one, a route matches every host. The template's overlays set it in `environment/`; overlays
that you renamed or added earlier may lack it.
"""

import re
import sys
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
OVERLAYS = ROOT / "deploy/kubernetes/overlays"
EXEMPT = "# for every hostname"
# Per kind: the path in a JSON patch, and the pattern in a manifest, that set the hostname.
HOSTNAMES = {
    "HTTPRoute": ("/spec/hostnames", r"^ *hostnames:"),
    "Ingress": ("/spec/rules/0/host", r"^ *(?:- )?host:"),
}


def reachable(directory: Path, seen: set[Path]) -> Iterator[Path]:
    """Yield the files of a kustomization, including kustomization.yaml itself."""
    kustomization = directory / "kustomization.yaml"
    if kustomization in seen or not kustomization.is_file():
        return
    seen.add(kustomization)
    yield kustomization
    text = kustomization.read_text(encoding="utf-8")
    for name in re.findall(r"""^ *(?:- +)?(?:path: *)?["']?([^\s"'#]+)""", text, re.MULTILINE):
        path = (directory / name).resolve()
        if path.is_dir():
            yield from reachable(path, seen)
        elif path.is_file() and path not in seen:
            seen.add(path)
            yield path


def documents(paths: list[Path]) -> Iterator[str]:
    """Yield the YAML documents of files, without comments."""
    for path in paths:
        text = re.sub(r"(?:^| )#.*$", "", path.read_text(encoding="utf-8"), flags=re.MULTILINE)
        yield from re.split(r"^---.*$", text, flags=re.MULTILINE)


def name_of(document: str) -> str:
    """Return the `metadata.name` of a manifest."""
    metadata = re.search(r"^ *metadata:\n((?: +.*\n)+)", document, re.MULTILINE)
    name = re.search(r"^ +name: *(\S+)", metadata[1] if metadata else "", re.MULTILINE)
    return name[1] if name else ""


def routes_without_hostname(overlay: Path) -> Iterator[tuple[str, str]]:
    """Yield kind and name of each route without a hostname."""
    all_documents = list(documents(list(reachable(overlay, set()))))
    for kind, (patch, field) in HOSTNAMES.items():
        is_kind = re.compile(rf"^ *kind: {kind}$", re.MULTILINE)
        manifests = [text for text in all_documents if is_kind.search(text)]
        routes = {name_of(text) for text in manifests if re.search(r"^spec:", text, re.MULTILINE)}
        deleted = {name_of(text) for text in manifests if "$patch: delete" in text}
        named = {name_of(text) for text in manifests if re.search(field, text, re.MULTILINE)}
        if not any(patch in text for text in all_documents):
            yield from ((kind, name) for name in sorted(routes - named - deleted))


def faults() -> Iterator[str]:
    """Yield a line for each route without a hostname."""
    for path in sorted(OVERLAYS.rglob("kustomization.yaml")):
        text = path.read_text(encoding="utf-8")
        if re.search("^kind: Component$", text, re.MULTILINE) or EXEMPT in text:
            continue
        for kind, name in routes_without_hostname(path.parent):
            yield (
                f"{path.relative_to(ROOT)}: {kind} {name} has no hostname, it matches every host: "
                f"set one as overlays/production/environment does, or add the comment `{EXEMPT}`"
            )


if __name__ == "__main__":
    messages = list(faults())
    print("".join(f"{message}\n" for message in messages), end="")
    sys.exit(1 if messages else 0)
