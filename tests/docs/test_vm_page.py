"""docs/reference/vm.md explains each directive that the rendered files set, and no other."""

import ast
import re
import shlex
import shutil
import subprocess
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from ..conftest import Render
from ..harness import host
from ..harness.pages import FENCE, commands
from ..harness.project import Project
from ..harness.template import ROOT

PAGE = (ROOT / "docs/reference/vm.md").read_text()
RUNBOOK = (ROOT / "docs/how-to/vm-runbook.md").read_text()

HEADING = re.compile(r"^### `(.+)`$")
ROW = re.compile(r"^\| (`.+?`) \| .+ \|$")
NGINX_TOKEN = re.compile(r"""#.*|[;{}]|(?:'[^']*'|"[^"]*"|[^\s;{}'"])+""")

ELSEWHERE = ("certbot", "docker", "uv")
"""Programs that may be missing on this machine."""


def rows(page: str) -> dict[str, list[str]]:
    """Return the directives of each file in the tables below its heading; `…` is anything."""
    told: dict[str, list[str]] = {}
    file = ""
    for line in page.splitlines():
        if heading := HEADING.match(line):
            file = heading[1]
        elif line.startswith("#"):
            file = ""
        elif file and (row := ROW.match(line)):
            told.setdefault(file, []).extend(re.findall(r"`(.+?)`", row[1]))
    return told


def unit_directives(text: str) -> Iterator[str]:
    """Yield `Key=value` lines, with continuation lines joined."""
    for line in re.sub(r"\s*\\\n\s*", " ", text).splitlines():
        if line and line[0] not in "#[":
            yield line


def nginx_directives(text: str) -> Iterator[str]:
    """Yield each directive and each block's opening, its words one space apart."""
    words: list[str] = []
    for token in NGINX_TOKEN.findall(text):
        if token in (";", "{", "}"):
            if words:
                yield " ".join(words)
            words = []
        elif not token.startswith("#"):
            words.append(token)


def gunicorn_directives(text: str) -> Iterator[str]:
    """Yield settings and hooks; names in capitals are neither."""
    for statement in ast.parse(text).body:
        match statement:
            case ast.Assign(targets=[ast.Name(id=name)]) if name.islower():
                yield ast.get_source_segment(text, statement) or ""
            case ast.FunctionDef(name=name):
                yield f"def {name}"


def rules_directives(text: str) -> Iterator[str]:
    """Yield the name of each rule, without its expression."""
    yield from re.findall(r"^ +- ((?:alert|record): \S+)$", text, re.MULTILINE)


def reader(file: Path) -> Callable[[str], Iterator[str]] | None:
    """Return the program that reads a file: systemd drop-ins and nginx sites both end in .conf."""
    return unit_directives if file.parent.name == "systemd" else READERS.get(file.suffix)


READERS = {
    ".conf": nginx_directives,
    ".py": gunicorn_directives,
    ".yml": rules_directives,
}


def differences(page: str, directory: Path) -> Iterator[str]:
    """Yield errors and omissions of a page about the files in deploy/vm."""
    told = rows(page)
    directives = {
        str(file.relative_to(directory)): list(read(file.read_text()))
        for file in sorted(directory.rglob("*"))
        if (read := reader(file))
    }
    for file in told.keys() | directives.keys():
        exact = Counter(row for row in told.get(file, []) if "…" not in row)
        patterns = [row for row in told.get(file, []) if "…" in row]
        left = Counter(directives.get(file, []))
        for row in (exact - left).elements():
            yield f"{file}: `{row}` is not there"
        left -= exact
        for row in patterns:
            fits = re.compile(".*".join(map(re.escape, row.split("…"))))
            found = [directive for directive in left if fits.fullmatch(directive)]
            if not found:
                yield f"{file}: `{row}` is not there"
            for directive in found:
                del left[directive]
        for directive in left.elements():
            yield f"{file}: `{directive}` is left out"


@pytest.fixture(scope="module")
def orders(render: Render) -> Project:
    """The service of the page."""
    return render(project_name="Orders API", deployment="vm")


def test_each_directive_in_the_page_has_the_rendered_value(orders: Project) -> None:
    assert list(differences(PAGE, orders.path / "deploy/vm")) == []


@pytest.mark.parametrize(
    ("right", "wrong", "said"),
    [
        ("`TimeoutStopSec=44`", "`TimeoutStopSec=45`", "`TimeoutStopSec=45` is not there"),
        ("`TimeoutStopSec=44`", "`TimeoutStopSec=45`", "`TimeoutStopSec=44` is left out"),
        ("| `keepalive 32` |", "| keepalive |", "`keepalive 32` is left out"),
        (
            "`log_format orders_api escape=json …`",
            "`log_format x…`",
            "`log_format x…` is not there",
        ),
        ("| `preload_app = True` |", "| |", "`preload_app = True` is left out"),
        ("`alert: Saturated`", "`alert: Sated`", "`alert: Saturated` is left out"),
        ("`SocketMode=0660`", "`SocketMode=0660` `SocketMode=0660`", "`SocketMode=0660` is not"),
    ],
)
def test_wrong_value_in_the_page_is_reported(
    orders: Project, right: str, wrong: str, said: str
) -> None:
    assert PAGE.count(right) == 1
    assert said in "\n".join(differences(PAGE.replace(right, wrong), orders.path / "deploy/vm"))


@pytest.mark.parametrize(
    ("file", "old", "new", "said"),
    [
        ("systemd/orders-api.service", "[Install]", "Nice=5\n[Install]", "`Nice=5` is left out"),
        ("nginx/tls.conf", "listen 443 ssl;", "http2 on;", "`http2 on` is left out"),
        ("gunicorn.conf.py", "backlog = 2048\n", "", "`backlog = 2048` is not there"),
    ],
)
def test_changed_file_is_reported(
    orders: Project, tmp_path: Path, file: str, old: str, new: str, said: str
) -> None:
    directory = Path(shutil.copytree(orders.path / "deploy/vm", tmp_path / "vm"))
    text = (directory / file).read_text()
    assert text.count(old) == 1
    (directory / file).write_text(text.replace(old, new))

    assert said in "\n".join(differences(PAGE, directory))


# ── The commands of the page, and of the service's own ────────────────────────────────────────


def told_commands(page: str) -> Iterator[list[str]]:
    """Yield the words of each command in a page: in fenced blocks, or else in indented lines."""
    blocks = [block.text for block in commands(page)]
    blocks += re.findall(r"^    .*\n", FENCE.sub("", page), re.MULTILINE)
    for line in re.sub(r"\\\n", " ", "".join(blocks)).replace("&&\n", "\n").splitlines():
        if words := shlex.split(line, comments=True):
            yield words[1:] if words[0] == "sudo" else words


def unknown_words(page: str, project: Project) -> Iterator[str]:
    """Yield programs, options, verbs and units of a page's commands that do not exist."""
    slug = project.answers["project_slug"]
    units = {f"{slug}{kind}" for kind in ("", ".service", ".socket")} | {"nginx"}
    for program, *words in told_commands(page):
        if program in ELSEWHERE:
            continue
        program = program.removeprefix(f"/opt/{slug}/current/")
        path = shutil.which(project.path / program if "/" in program else program)
        if path is None:
            yield program
            continue
        options = [word.partition("=")[0] for word in words if word.startswith("--")]
        plain = [word for word in words if not word.startswith("-")]
        known = manual(path)
        yield from (f"{program} {option}" for option in options if option not in known)
        if program == "systemctl":
            verb, *named = plain
            yield from () if verb in known else (f"{program} {verb}",)
            yield from (f"{program} {verb} {unit}" for unit in named if unit not in units)
        if program == "journalctl":
            assignments = [word.partition("=") for word in words]
            yield from (
                word for option, _, word in assignments if option == "--unit" and word not in units
            )


def manual(program: str) -> set[str]:
    """Return the words of a program's help."""
    topic = ["all"] if Path(program).name == "curl" else []
    result = subprocess.run([program, "--help", *topic], check=True, capture_output=True, text=True)
    return set(re.findall(r"[\w-]+", result.stdout))


def unknown_paths(page: str, project: Project) -> set[str]:
    """Return paths of the service in a page that no rendered file has."""
    slug = project.answers["project_slug"]
    files = [file for file in (project.path / "deploy/vm").rglob("*") if file.is_file()]
    text = "\n".join(file.read_text() for file in files).replace("%t/%N", "/run/$name")
    for name in ("home", "etc", "run", "next", "name"):
        value = re.findall(rf"^readonly {name}=(\S+)", text, re.MULTILINE)[0]
        text = re.sub(rf"\${name}\b", value, text)
    text = text.replace("$name", slug)
    found = set(re.findall(rf"/(?:opt|etc|run)/{slug}[\w./-]*[\w]", page))
    release = f"/opt/{slug}/current/"
    found = {
        path.removeprefix(release) for path in found
    }  # a release has the files of the checkout
    found = {re.sub("/secrets/[A-Z_]+$", "/secrets", path) for path in found}
    return {path for path in found if path not in text and not (project.path / path).is_file()}


@pytest.fixture(scope="module")
def pages(orders: Project) -> str:
    """Both pages, and the service's deploy/README.md."""
    if missing := host.missing_tools():
        pytest.skip(f"no host without {', '.join(missing)}")
    return PAGE + RUNBOOK + (orders.path / "deploy/README.md").read_text()


def test_commands_and_paths_of_the_page_exist(pages: str, orders: Project) -> None:
    assert len(list(told_commands(pages))) > 30
    assert list(unknown_words(pages, orders)) == []
    assert unknown_paths(pages, orders) == set()


def test_each_test_named_by_the_page_exists() -> None:
    named = re.findall(r"`(tests/[\w/]+\.py)`", PAGE)

    assert len(named) > 5
    assert [file for file in named if not (ROOT / file).is_file()] == []


@pytest.mark.parametrize(
    ("right", "wrong", "said"),
    [
        ("deploy --rollback ", "deploy --undo ", "deploy/vm/deploy --undo"),
        ("sudo systemctl daemon-reload", "sudo systemctl rescan", "systemctl rescan"),
        ("--disk-usage", "--disk-use", "journalctl --disk-use"),
        ("--unit=orders-api --follow", "--unit=orders --follow", "orders"),
        ("--now orders-api.socket", "--now orders.socket", "orders.socket"),
        ("`/opt/orders-api/uv`", "`/opt/orders-api/pip`", "/opt/orders-api/pip"),
    ],
)
def test_unknown_command_is_reported(
    pages: str, orders: Project, right: str, wrong: str, said: str
) -> None:
    assert right in pages
    page = pages.replace(right, wrong)
    found = [*unknown_words(page, orders), *unknown_paths(page, orders)]

    assert any(said in one for one in found), found
