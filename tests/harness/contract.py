"""The public API of copier.yml: names, types, choice values, defaults.

`python -m tests.harness.contract` writes them to tests/contract.json.
"""

import json
from pathlib import Path

import yaml

from .template import ROOT, git, releases

SNAPSHOT = "tests/contract.json"

Contract = dict[str, dict[str, object]]


def contract(copier_yml: str) -> Contract:
    """Return the public API of a copier.yml, without computed values."""
    public: Contract = {}
    for name, question in yaml.safe_load(copier_yml).items():
        if name.startswith("_") or question.get("when") is False:
            continue
        choices = question.get("choices")
        public[name] = {
            "type": question["type"],
            "choices": list(choices.values()) if isinstance(choices, dict) else choices,
            "default": question.get("default"),
        }
    return public


def incompatible_changes(before: Contract, after: Contract) -> list[str]:
    """Return incompatible changes: a removed name, type or choice value."""
    broken = []
    for name, question in before.items():
        if name not in after:
            broken.append(f"{name} was removed")
            continue
        if question["type"] != after[name]["type"]:
            broken.append(f"{name} has another type")
        left = after[name]["choices"] or []
        assert isinstance(left, list)
        gone = [value for value in question["choices"] or [] if value not in left]  # type: ignore[attr-defined]
        broken += [f"{name} lost the choice {value}" for value in gone]
    return broken


def faults(template: Path = ROOT) -> list[str]:
    """Return one line for each fault in the contract of a checkout.

    The snapshot must match copier.yml. The changelog must mention each change since the last
    release, and each incompatible change needs a migration with a later version.
    """
    copier_yml = (template / "copier.yml").read_text()
    now = contract(copier_yml)
    lines = []
    if now != json.loads((template / SNAPSHOT).read_text()):
        lines.append(f"{SNAPSHOT} does not match copier.yml: python -m tests.harness.contract")

    released = releases(template)
    if not released:
        return lines
    version, release = list(released.items())[-1]
    then = contract(git(template, "show", f"{release}:copier.yml"))
    news, _, _ = (template / "CHANGELOG.md").read_text().partition(f"\n## {version}")
    for name in sorted(then.keys() | now.keys()):
        if then.get(name) != now.get(name) and f"`{name}`" not in news:
            lines.append(f"{name} has changed since {version}: CHANGELOG.md doesn't mention it")
    migrations = yaml.safe_load(copier_yml).get("_migrations", [])
    if not any(_newer(str(migration.get("version", "0")), version) for migration in migrations):
        lines += [
            f"{broken}: a service of {version} needs a migration"
            for broken in incompatible_changes(then, now)
        ]
    return lines


def _newer(version: str, than: str) -> bool:
    first, second = ([int(part) for part in v.lstrip("v").split(".")] for v in (version, than))
    return first > second


def write(template: Path = ROOT) -> None:
    """Write the snapshot of a checkout."""
    snapshot = contract((template / "copier.yml").read_text())
    (template / SNAPSHOT).write_text(json.dumps(snapshot, indent=2) + "\n")


if __name__ == "__main__":
    write()
