""".copier-files.txt: the record of rendered files in each service, for scripts/check_update.py.

`python -m tests.harness.delivered` writes its template after a file was added, moved or removed.
It includes every other file, because Jinja can't read the files that Copier has rendered.
"""

import re
from pathlib import Path

from .ownership import owner
from .template import ROOT, git

RECORD = ".copier-files.txt"
SOURCE = f"template/{RECORD}.jinja"

HEAD = """\
# Written by Copier for scripts/check_update.py: the answers, the lower bounds of the requirements,
# and the git blob ID of each file as rendered. Don't edit it.
{% macro delivered(owner, source) -%}
{%- set path = caller() -%}
{%- set text %}{% include "template/" ~ source ignore missing %}{% endset -%}
{%- if text and path and not path.startswith("/") and not path.endswith("/") -%}
{%- set header = "blob " ~ text.encode() | length ~ "\\x00" -%}
{{ owner }} {{ (header ~ text) | hash("sha1") }} {{ path | regex_replace("^[.]/", "") }}
{% endif -%}
{%- endmacro -%}
{% for line in (_copier_answers | to_nice_yaml).splitlines() if not line.startswith("_") -%}
answer {{ line }}
{% endfor -%}
{% set pyproject %}{% include "template/pyproject.toml.jinja" %}{% endset -%}
{% for requirement in pyproject | regex_findall('^    "([^"]+>=[^"]+)"', multiline=True) -%}
requires {{ requirement }}
{% endfor -%}
"""
EMPTY = "e69de29bb2d1d6434b8b29ae775ad8c2e48c5391"  # the blob of every empty file


def sources(template: Path = ROOT) -> list[str]:
    """Return the files below template/ that may be rendered, sorted."""
    listed = git(
        template, "ls-files", "-z", "--cached", "--others", "--exclude-standard", "template"
    )
    names = {name for name in listed.split("\0") if name and (template / name).exists()}
    left_out = re.compile(r"_includes/|\{\{_copier_conf\.answers_file}}|\.copier-files\.txt")
    relative = sorted(name.removeprefix("template/") for name in names)
    return [name for name in relative if not left_out.match(name)]


def record(template: Path = ROOT) -> str:
    """Return the content of the template of .copier-files.txt."""
    lines = []
    for source in sources(template):
        path = source.removesuffix(".jinja")
        plain = re.sub(r"^\{% if [^%]* %}\.\{% endif %}/", "", path)
        owned_by = "team" if owner(plain, "{{package_name}}") == "team" else "template"
        if not (template / "template" / source).stat().st_size:
            condition = "".join(re.findall(r"^\{% if [^%]* %}", source))
            end = "{% endif -%}\n" if condition else ""
            lines.append(f"{condition}{owned_by} {EMPTY} {plain}\n{end}")
            continue
        quoted = source.replace("\\", "\\\\").replace('"', '\\"')
        lines.append(f'{{% call delivered("{owned_by}", "{quoted}") %}}{path}{{% endcall -%}}\n')
    return HEAD + "".join(lines)


def write(template: Path = ROOT) -> None:
    """Write the template to a checkout."""
    (template / SOURCE).write_text(record(template))


if __name__ == "__main__":
    write()
    print(f"{SOURCE}: {len(sources())} files")
