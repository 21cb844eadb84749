""".copier-files.txt, the record in each service of what the template delivered: the gate reads it.

`python -m tests.harness.delivered` writes its template, after a file was added, moved or removed.
The template includes every other file, since Jinja can't read what Copier has rendered.
"""

import re
from pathlib import Path

from .ownership import owner
from .template import ROOT, git

RECORD = ".copier-files.txt"
SOURCE = f"template/{RECORD}.jinja"

HEAD = """\
# Written by Copier, read by scripts/check_update.py: the answers, the floors of the requirements,
# and each file as the template delivers it, by its git blob id. Don't edit it.
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
    """Return the files of template/ that a service may get, by their rendered names."""
    listed = git(
        template, "ls-files", "-z", "--cached", "--others", "--exclude-standard", "template"
    )
    names = {name for name in listed.split("\0") if name and (template / name).exists()}
    left_out = re.compile(r"_includes/|\{\{_copier_conf\.answers_file}}|\.copier-files\.txt")
    relative = sorted(name.removeprefix("template/") for name in names)
    return [name for name in relative if not left_out.match(name)]


def record(template: Path = ROOT) -> str:
    """Return the text of its template."""
    lines = []
    for source in sources(template):
        path = source.removesuffix(".jinja")
        plain = re.sub(r"^\{% if [^%]* %}\.\{% endif %}/", "", path)
        whose = "team" if owner(plain, "{{package_name}}") == "team" else "template"
        if not (template / "template" / source).stat().st_size:
            condition = "".join(re.findall(r"^\{% if [^%]* %}", source))
            end = "{% endif -%}\n" if condition else ""
            lines.append(f"{condition}{whose} {EMPTY} {plain}\n{end}")
            continue
        quoted = source.replace("\\", "\\\\").replace('"', '\\"')
        lines.append(f'{{% call delivered("{whose}", "{quoted}") %}}{path}{{% endcall -%}}\n')
    return HEAD + "".join(lines)


def write(template: Path = ROOT) -> None:
    """Write it into a checkout."""
    (template / SOURCE).write_text(record(template))


if __name__ == "__main__":
    write()
    print(f"{SOURCE}: {len(sources())} files")
