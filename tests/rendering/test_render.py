"""Renders are complete, well-formed, for one target, and without traces of the template."""

import configparser
import itertools
import json
import os
import re
import shutil
import subprocess
import sys
import tomllib
from collections.abc import Callable
from pathlib import Path

import pytest
import yaml

from ..conftest import NAME, Render
from ..harness.project import Project
from ..harness.template import LATEST, PYTHONS, ROOT, TARGETS, git
from ..harness.template import render as render_with

# Terms of a target, which a render of the other one must not contain.
FOREIGN_WORDS = {
    "kubernetes": r"gunicorn|systemd|systemctl|journald|journalctl|nginx|compose|\bvms?\b",
    "vm": r"kube|\bk8s\b|\bpods?\b|kustomi[sz]e|helm|ingress|configmap|\bclusters?\b|replica",
}
# Words for people, which older comments used for machines.
PEOPLE = r"\b(nobody|whoever|who)\b"
EVERY_COMBINATION = list(itertools.product(TARGETS, PYTHONS))

# Files that each answer adds; "none" adds no file.
OF_CI = {
    "github": {
        ".github/workflows/ci.yml",
        ".github/workflows/release.yml",
        ".github/workflows/scan.yml",
        ".github/workflows/template-update.yml",
    },
    "gitlab": {".gitlab-ci.yml"},
    "none": set(),
}
OF_UPDATES = {
    "renovate": {"renovate.json"},
    "dependabot": {".github/dependabot.yml"},
    "none": set(),
}
EVERY_CI = [
    {"ci": ci, "dependency_updates": updates}
    for ci, updates in itertools.product(OF_CI, OF_UPDATES)
    if (ci, updates) != ("gitlab", "dependabot")  # an invalid combination: test_questions.py
]
every_ci = pytest.mark.parametrize("answers", EVERY_CI, ids=lambda given: "-".join(given.values()))


def files(project: Project) -> list[Path]:
    """Return the rendered files, relative to the project, in order."""
    listed = git(project.path, "ls-files", "--others", "--cached", "--exclude-standard")
    return sorted(Path(name) for name in listed.splitlines() if name != "uv.lock")


def texts(project: Project) -> dict[Path, str]:
    return {name: (project.path / name).read_text() for name in files(project)}


@pytest.mark.parametrize(("target", "python"), EVERY_COMBINATION)
def test_every_combination_renders(render: Render, target: str, python: str) -> None:
    project = render(deployment=target, python_version=python)

    assert f"FROM python:{python}-slim" in (project.path / "Dockerfile").read_text()
    assert f'python-version: "{python}"' in (project.path / ".github/workflows/ci.yml").read_text()


@pytest.mark.parametrize("target", TARGETS)
def test_rendered_paths_match_the_recorded_manifest(render: Render, target: str) -> None:
    """tests/manifest/TARGET.txt lists every rendered file."""
    manifest = ROOT / f"tests/manifest/{target}.txt"

    assert [str(name) for name in files(render(deployment=target))] == (
        manifest.read_text().splitlines()
    )


@every_ci
@pytest.mark.parametrize("target", TARGETS)
def test_answers_for_ci_and_updates_add_only_their_own_files(
    render: Render, target: str, answers: dict[str, str]
) -> None:
    manifest = ROOT / f"tests/manifest/{target}.txt"
    common = {*manifest.read_text().splitlines()} - OF_CI["github"] - OF_UPDATES["renovate"]

    rendered = {str(name) for name in files(render(deployment=target, **answers))}

    assert rendered == (common | OF_CI[answers["ci"]] | OF_UPDATES[answers["dependency_updates"]])


@every_ci
@pytest.mark.parametrize("target", TARGETS)
def test_render_has_no_term_of_the_other_target(
    render: Render, target: str, answers: dict[str, str]
) -> None:
    words = re.compile(FOREIGN_WORDS[target], re.IGNORECASE)
    found = {
        f"{name}: {match[0]}"
        for name, text in texts(render(deployment=target, **answers)).items()
        for match in [words.search(text), words.search(str(name))]
        if match
    }

    assert found == set()


def test_terms_of_a_target_occur_in_its_render(render: Render) -> None:
    """The word lists above contain terms that occur in renders."""
    for target, other in (("kubernetes", "vm"), ("vm", "kubernetes")):
        everything = "\n".join(texts(render(deployment=target)).values())
        assert len(set(re.findall(FOREIGN_WORDS[other], everything, re.IGNORECASE))) > 3


def scar(name: Path, text: str) -> str | None:
    """Return the first trace of the template in a file."""
    if name.name == "prometheusrule.yaml" or name.name.endswith(".rules.yml"):
        # Prometheus' own placeholders occur in summaries only.
        its_own = re.compile(r"\{\{ \$(?:labels\.\w+|value \| humanize\w*) \}\}")
        text = re.sub("^ +summary: .*$", lambda line: its_own.sub("…", line[0]), text, flags=re.M)
    jinja = r"(?<!\$)\{\{|\{%|\{#|copier\.yml|jinja"  # GitHub's expressions are ${{ … }}
    spacing = r"\n\n\n\n|[ \t]\n|\A\n|\n\n\Z|[^\n]\Z"
    match = re.search(f"{jinja}|{spacing}", text, re.IGNORECASE)
    return match[0] if match else None


@every_ci
@pytest.mark.parametrize("target", TARGETS)
def test_render_has_no_trace_of_the_template(
    render: Render, target: str, answers: dict[str, str]
) -> None:
    rendered = texts(render(deployment=target, **answers))

    assert {name: found for name, text in rendered.items() if (found := scar(name, text))} == {}


SUMMARY = '  summary: "{{ $labels.job }} {{ $value | humanizePercentage }}"\n'


@pytest.mark.parametrize(
    ("name", "text", "found"),
    [
        ("deploy/vm/prometheus/shop.rules.yml", SUMMARY, None),
        ("prometheusrule.yaml", SUMMARY, None),
        ("deployment.yaml", SUMMARY, "{{"),
        ("dashboard.json", SUMMARY, "{{"),
        ("prometheusrule.yaml", SUMMARY.replace("summary", "expr"), "{{"),
        ("prometheusrule.yaml", SUMMARY.replace("$labels.job", "job"), "{{"),
        ("prometheusrule.yaml", SUMMARY.replace("$labels.job", "labels.job"), "{{"),
        ("prometheusrule.yaml", SUMMARY + "  job: {{ project_slug }}\n", "{{"),
        ("prometheusrule.yaml", SUMMARY + "annotations: \n", " \n"),
        ("ci.yml", "run: ${{ github.ref }}\n", None),
    ],
)
def test_check_finds_traces_of_the_template(name: str, text: str, found: str | None) -> None:
    assert scar(Path(name), text) == found


def parse_ini(text: str) -> None:
    parser = configparser.RawConfigParser(strict=False)  # systemd repeats keys
    parser.optionxform = str  # type: ignore[assignment, method-assign]
    parser.read_string(text)
    assert parser.sections()


def parse_yaml(text: str) -> None:
    assert list(yaml.safe_load_all(text))


PARSERS: dict[str, Callable[[str], object]] = {
    ".yaml": parse_yaml,
    ".yml": parse_yaml,
    ".toml": tomllib.loads,
    ".json": json.loads,
    ".service": parse_ini,
    ".socket": parse_ini,
}


@pytest.mark.parametrize(
    ("target", "suffixes"),
    [
        ("kubernetes", {".yaml": 5, ".yml": 2, ".toml": 1}),
        ("vm", {".yaml": 1, ".yml": 2, ".toml": 1, ".service": 1, ".socket": 1}),
    ],
)
def test_every_file_of_a_known_format_parses(
    render: Render, target: str, suffixes: dict[str, int]
) -> None:
    parsed: dict[str, int] = {}
    for name, text in texts(render(deployment=target)).items():
        if name.suffix in PARSERS:
            PARSERS[name.suffix](text)
            parsed[name.suffix] = parsed.get(name.suffix, 0) + 1

    assert all(parsed.get(suffix, 0) >= number for suffix, number in suffixes.items()), parsed


@pytest.mark.parametrize("target", TARGETS)
@pytest.mark.parametrize("ref", [LATEST, None], ids=["tag", "clone"])
def test_copies_without_trust_identity_or_network(
    template: Path, tmp_path: Path, target: str, ref: str | None
) -> None:
    """The documented command, without git identity and network."""
    command = [str(Path(sys.executable).with_name("copier")), "copy", "--defaults"]
    command += ["-d", f"project_name={NAME}", "-d", f"deployment={target}"]
    if ref:
        command += ["--vcs-ref", ref]
    offline = ["unshare", "--net"] if os.geteuid() == 0 and shutil.which("unshare") else []
    home = tmp_path / "home"
    home.mkdir()

    result = subprocess.run(
        [*offline, *command, str(template), str(tmp_path / "shop")],
        env={"PATH": os.environ["PATH"], "HOME": str(home)},
        capture_output=True,
        text=True,
    )

    assert result.returncode == 0, result.stderr
    answers = yaml.safe_load((tmp_path / "shop/.copier-answers.yml").read_text())
    assert answers["_commit"] == LATEST
    assert answers["deployment"] == target


@pytest.mark.parametrize("target", TARGETS)
def test_answers_file_has_no_computed_value(render: Render, target: str) -> None:
    """A computed value in the answers file would never change again."""
    assert render(deployment=target).answers.keys() == {
        "_commit",
        "_src_path",
        "ci",
        "database",
        "database_connections",
        "dependency_updates",
        "deployment",
        "description",
        "keep_comments",
        "load_balancer_seconds",
        "package_name",
        "project_name",
        "project_slug",
        "prometheus_operator",
        "proxy_network",
        "python_version",
        "request_timeout_seconds",
        "route",
        "route_manifest",
        "traces",
    }


def test_answer_to_an_unknown_question_is_an_error_in_the_harness(
    template: Path, tmp_path: Path
) -> None:
    """Copier ignores `deplyo=vm` silently; these tests must not."""
    with pytest.raises(KeyError, match="deplyo"):
        render_with(template, tmp_path / "shop", {"deplyo": "vm"})


@pytest.mark.parametrize("database", ["none", "postgresql"])
def test_rendered_files_have_no_words_for_people(
    render: Render, target: str, database: str
) -> None:
    found = {
        f"{name}: {match[0]}"
        for name, text in texts(render(deployment=target, database=database)).items()
        for match in re.finditer(PEOPLE, text, re.IGNORECASE)
    }

    assert found == set()


# ── README ────────────────────────────────────────────────────────────────────────────────


def test_picture_of_the_shapes_matches_the_render(render: Render, target: str) -> None:
    picture = (ROOT / "docs/shapes.svg").read_text()
    shape = re.search(rf'<g id="{target}">.*?</g>', picture, re.DOTALL)
    assert shape
    service = render(deployment=target, project_name="Orders API")
    rendered = "\n".join([*texts(service).values(), *map(str, files(service))])
    named = re.findall(r'class="path">([^<]+)<', shape[0])

    assert len(named) >= 3
    assert [name for name in named if name not in rendered] == []
    assert not re.search(FOREIGN_WORDS[target], shape[0], re.IGNORECASE)


def test_tree_in_the_readme_matches_the_render(render: Render, target: str) -> None:
    [tree] = re.findall(
        r"```text\n(kubernetes .*?)```", (ROOT / "README.md").read_text(), re.DOTALL
    )
    column = tree.index("vm")
    service = render(deployment=target, project_name="Orders API")
    there = {*map(str, files(service))}
    parents: list[str] = []
    for line in tree.splitlines()[1:]:
        half = line[:column] if target == "kubernetes" else line[column:]
        if entry := re.match(r"((?:│   |    )*)[├└]── ([^\s…]+)", half):
            depth = len(entry[1]) // 4
            parents[depth:] = [entry[2]]
            path = "".join(parents)
            assert any(file == path or file.startswith(path) for file in there), path
