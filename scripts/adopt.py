# /// script
# requires-python = ">=3.11"
# dependencies = ["packaging", "tomlkit"]
# ///
"""The mechanical steps of moving an existing FastAPI service onto the template.

    uv run adopt.py raise [NAME…]            before the copy: the newest FastAPI, in the old layout
    uv run adopt.py move [--application FILE] after it: dependencies, files, imports, serving layer

Run it in the service's directory, as docs/how-to/adopt.md says. It prints what it did and what
remains to do. Exit status: 0 for success; 1 if it refuses, with one line, and has written nothing.
"""

import argparse
import ast
import configparser
import os
import re
import subprocess
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path, PurePosixPath
from typing import Any

import tomlkit
from packaging.requirements import InvalidRequirement, Requirement
from packaging.specifiers import SpecifierSet
from packaging.utils import canonicalize_name
from packaging.version import Version

TEMPLATE = Path(__file__).resolve().parents[1] / "template/pyproject.toml.jinja"
PYPROJECT = Path("pyproject.toml")
ANSWERS = Path(".copier-answers.yml")
RECORD = Path(".copier-files.txt")
EXAMPLES = ("routes/large_response.py", "test_large_response.py")

# Files whose lines are merged.
JOINED = (".gitignore", ".gitattributes", ".dockerignore", ".env.example")
# Tables of `tool` that the template replaces, or of tools that it does not use.
REPLACED_TOOLS = {
    *("distutils", "flit", "hatch", "mypy", "pdm", "pip-tools", "pipenv", "poetry", "pytest"),
    *("ruff", "setuptools", "setuptools_scm", "uv"),
}
# Packages that must be upgraded with FastAPI or pytest: their bounds are removed.
COMPANIONS = re.compile(
    r"annotated-types|anyio|click|fastapi-.*|h11|httptools|idna|pydantic-core|pytest-.*|sniffio"
    r"|starlette|typing-extensions|typing-inspection|uvloop|watchfiles|websockets"
)
# Directories that are never moved into the package.
APART = {"tests", "test", "docs", "doc", "deploy", "scripts", "node_modules", "build", "dist"}
# Calls and arguments in which a string is a path.
PATH_CALLS = {
    *("open", "Path", "PurePath", "Jinja2Templates", "StaticFiles", "FileResponse"),
    *("FileSystemLoader", "set_main_option", "join"),
}
PATH_ARGUMENTS = {"directory", "path", "searchpath"}
# Calls in which a dotted string is an import path.
NAME_CALLS = {"patch", "setattr", "delattr", "import_module", "run", "delitem", "setitem"}


class RefusedError(Exception):
    """The reason why nothing was changed, in one line."""


def git(*arguments: str) -> str:
    """Return the output of a git command."""
    command = ["git", *arguments]
    result = subprocess.run(
        command, capture_output=True, encoding="utf-8", errors="replace", check=False
    )
    if result.returncode:
        raise RefusedError(f"git {arguments[0]}: {result.stderr.strip()}")
    return result.stdout


def at_head(name: str) -> str:
    """Return a file as it was before the copy."""
    return git("show", f"HEAD:{name}")


# ── Requirements ──────────────────────────────────────────────────────────────────────────────


def read(text: str) -> Requirement | None:
    """Parse a requirement; None for a comment or a path."""
    try:
        return Requirement(text)
    except InvalidRequirement:
        return None


def name_of(text: str) -> str:
    """Return the normalised name of a distribution."""
    requirement = read(text)
    return canonicalize_name(requirement.name) if requirement else text


def floors() -> dict[str, SpecifierSet]:
    """Return the lower bounds of the template, by distribution."""
    text = TEMPLATE.read_text(encoding="utf-8")
    text = re.sub(r"\{%-? if database\b.*?%\}.*?\{%-? endif.*?%\}", "", text, flags=re.DOTALL)
    text = re.sub(r"\{%.*?%\}", "", text)
    found = re.findall(r'^\s*"([^"]+>=[^"]+)"', text, re.MULTILINE)
    requirements = [Requirement(each) for each in found]
    return {canonicalize_name(each.name): each.specifier for each in requirements}


def listed(document: Any) -> Iterator[Any]:
    """Yield each list of requirements of a pyproject.toml."""
    project = document.get("project", {})
    yield project.get("dependencies", [])
    yield from project.get("optional-dependencies", {}).values()
    yield from document.get("dependency-groups", {}).values()


def lowest(specifiers: str) -> Version:
    """Return the lower bound of `requires-python`."""
    found = [
        Version(each.version.removesuffix(".*"))
        for each in SpecifierSet(specifiers)
        if each.operator in (">=", "==", "~=", ">")
    ]
    return max(found, default=Version("0"))


def raise_floors(names: list[str]) -> None:
    """Set the template's lower bounds, remove the bounds of `names`, and lock."""
    if not PYPROJECT.exists():
        raise RefusedError(
            "pyproject.toml: missing: `uv init --bare`, then `uv add -r requirements.txt`"
        )
    before = PYPROJECT.read_text(encoding="utf-8")
    document = tomlkit.parse(before)
    if "project" not in document:
        raise RefusedError(
            "pyproject.toml: no [project] table: `uv tool run migrate-to-uv` creates one"
        )
    needed, newest = floors(), {canonicalize_name(name) for name in names}
    if unknown := newest - {name_of(str(each)) for some in listed(document) for each in some}:
        raise RefusedError(f"{', '.join(sorted(unknown))}: not required in pyproject.toml")
    output: list[str] = []
    upgraded = {*newest, *needed}
    for requirements in listed(document):
        for index, text in enumerate(requirements):
            requirement = read(str(text)) if isinstance(text, str) else None
            name = name_of(str(text))
            is_free = name in newest or (name not in needed and COMPANIONS.fullmatch(name))
            if requirement is None or requirement.url or not (is_free or name in needed):
                continue
            upgraded.add(name)
            floor = SpecifierSet() if is_free else needed[name]
            if requirement.specifier != floor:
                requirement.specifier = floor
                output.append(f"{text} → {requirement}")
                requirements[index] = str(requirement)
    template = re.search(r'^requires-python = "(.*)"', TEMPLATE.read_text("utf-8"), re.MULTILINE)
    project: Any = document["project"]
    if template and lowest(str(project.get("requires-python", ""))) < lowest(template[1]):
        output.append(f"requires-python {project.get('requires-python', '')} → {template[1]}")
        project["requires-python"] = template[1]
    PYPROJECT.write_text(tomlkit.dumps(document), encoding="utf-8")
    upgrades = [part for name in sorted(upgraded) for part in ("-P", name)]
    command = [os.environ.get("UV", "uv"), "lock", *upgrades]
    if subprocess.run(command, check=False).returncode:
        PYPROJECT.write_text(before, encoding="utf-8")
        raise RefusedError("uv lock failed: `raise NAME…` also upgrades packages that block others")
    print(*output, sep="\n")


def merge_requirements(into: Any, requirements: Iterable[Any], known: dict[str, set[str]]) -> None:
    """Add a team's requirements to the template's, which are kept; their extras are added."""
    for each in requirements:
        requirement = read(str(each)) if isinstance(each, str) else None
        if requirement is not None:
            name = canonicalize_name(requirement.name)
            if name in known and requirement.extras <= known[name]:
                continue
            if name in known:
                requirement.specifier = SpecifierSet()
                each = str(requirement)
        into.add_line(each, indent="    ")


def extras(document: Any) -> dict[str, set[str]]:
    """Return the extras of each distribution that the template requires."""
    found: dict[str, set[str]] = {}
    for text in (each for some in listed(document) for each in some if isinstance(each, str)):
        if requirement := read(str(text)):
            found.setdefault(canonicalize_name(requirement.name), set()).update(requirement.extras)
    return found


def merge_pyproject(
    theirs: str, ours: str, *, has_other_pytest: bool = False
) -> tuple[str, list[str]]:
    """Return the template's pyproject.toml with a team's additions, and a line per omission.

    `has_other_pytest`: the settings are in tox.ini or setup.cfg, which a table here would override.
    """
    document, team, output = tomlkit.parse(theirs), tomlkit.parse(ours), []
    project: Any = document["project"]
    own: Any = team.get("project", {})
    known = extras(document)
    merge_requirements(project["dependencies"], own.get("dependencies", []), known)
    for name in ("version", "authors", "maintainers", "license"):
        if name in own:
            project[name] = own[name]
    if "version" not in own:
        output.append(f"pyproject.toml: version is now {project['version']}: set yours")
    if lowest(str(own.get("requires-python", ""))) > lowest(str(project["requires-python"])):
        project["requires-python"] = f">={lowest(str(own['requires-python']))}"
    for name in ("scripts", "gui-scripts", "entry-points", "urls"):
        if name in own:
            project[name] = own[name]
    groups: Any = document["dependency-groups"]
    development = set()
    for name, requirements in own.get("optional-dependencies", {}).items():
        if canonicalize_name(name) in ("dev", "development", "test", "tests", "testing", "lint"):
            merge_requirements(groups["dev"], requirements, known)
            development.add(name)
        else:
            project.setdefault("optional-dependencies", {})[name] = requirements
    for name, requirements in team.get("dependency-groups", {}).items():
        if name in groups:
            merge_requirements(groups[name], requirements, known)
        else:
            groups[name] = requirements
    tools: Any = document["tool"]
    own_tools: Any = team.get("tool", {})
    for name, table in own_tools.items():
        if name not in REPLACED_TOOLS:
            tools[name] = table
        elif name in ("mypy", "ruff"):
            output.append(
                f"pyproject.toml: [tool.{name}] is the template's: git show HEAD:pyproject.toml"
            )
    leave_types_out(tools["mypy"], str(tools["uv"]["build-backend"]["module-name"]))
    if configured := own_tools.get("pytest", {}):
        tools["pytest"] = configured
        configured.get("ini_options", configured).setdefault("testpaths", ["tests"])
    else:
        del tools["pytest"]["ini_options"]["filterwarnings"]
    if has_other_pytest:
        del tools["pytest"]
    for name, value in own_tools.get("uv", {}).items():
        if name in ("sources", "index", "override-dependencies", "constraint-dependencies"):
            tools["uv"][name] = value
    text = re.sub(r"(?<=[^\n])\n(?=\[)", "\n\n", tomlkit.dumps(document))
    return re.sub(r"\n{3,}", "\n\n", text).rstrip("\n") + "\n", output


def leave_types_out(mypy: Any, package: str) -> None:
    """Exclude the team's modules from mypy's errors."""
    mypy["exclude"] = ["^tests/(?!serving/)"]
    mypy["exclude"].comment("until they are typed, as below")
    for module, is_left_out in ((package, True), (f"{package}.serving", False)):
        override = tomlkit.table()
        override["module"] = [module, f"{module}.*"]
        override["ignore_errors"] = is_left_out
        mypy["overrides"].append(override)


# ── The old layout ────────────────────────────────────────────────────────────────────────────


class Service:
    """The service before the copy, and the new places of its files."""

    def __init__(self, application: str | None) -> None:
        if not ANSWERS.exists() or not RECORD.exists():
            raise RefusedError(f"{ANSWERS}: missing: run `copier copy` first, here")
        self.files = git("ls-tree", "-r", "--name-only", "-z", "HEAD").split("\0")[:-1]
        if str(ANSWERS) in self.files:
            raise RefusedError(
                f"{ANSWERS}: committed: move runs between `copier copy` and the commit"
            )
        answers = dict(re.findall(r"^(\w+): *(.*)$", ANSWERS.read_text("utf-8"), re.MULTILINE))
        self.package = answers["package_name"].strip("'\"")
        entries = (line.split(" ", 2) for line in RECORD.read_text("utf-8").splitlines())
        self.owners = {entry[2]: entry[0] for entry in entries if entry[0] in ("team", "template")}
        self.sources = {
            name: at_head(name)
            for name in self.files
            if name.endswith(".py") and not re.search(r"(^|/)(\.venv|venv|node_modules)/", name)
        }
        trees = {name: parse(text) for name, text in self.sources.items()}
        self.trees = {name: tree for name, tree in trees.items() if tree}
        self.unreadable = [name for name in self.sources if name not in self.trees]
        for name in self.unreadable:
            del self.sources[name]
        self.alembic = self.find_alembic()
        self.application = self.find_application(application)
        self.moves: dict[str, str] = {}
        """Old paths of files and directories, and new ones."""
        self.names: dict[str, str] = {}
        """Old top-level modules, and their new import names."""
        self.plan()

    def find_alembic(self) -> str | None:
        """Return the directory of the migrations in alembic.ini."""
        if "alembic.ini" not in self.files:
            return None
        config = configparser.ConfigParser(interpolation=None, strict=False)
        config.read_string(at_head("alembic.ini"))
        location = config.get("alembic", "script_location", fallback="alembic")
        return str(PurePosixPath(location.replace("%(here)s", "").lstrip("/")))

    def find_application(self, wanted: str | None) -> str:
        """Return the file that creates the application."""
        found = {
            name: applications(tree) for name, tree in self.trees.items() if self.is_code(name)
        }
        found = {name: made for name, made in found.items() if made}
        if wanted:
            if wanted not in found:
                raise RefusedError(f"{wanted}: no `… = FastAPI(…)` in it")
            return wanted

        def rank(name: str) -> tuple[int, int]:
            usual = ("main", "app", "application", "__init__", "api", "server", "asgi", "factory")
            stem = PurePosixPath(name).stem
            return name.count("/"), usual.index(stem) if stem in usual else len(usual)

        ranked = sorted(found, key=rank)
        if not ranked:
            raise RefusedError("no file with `… = FastAPI(…)`: give the application a name")
        if len(ranked) > 1 and rank(ranked[0]) == rank(ranked[1]):
            both = " or ".join(ranked[:2])
            raise RefusedError(
                f"which is the application, {both}? Name it: move --application FILE"
            )
        return ranked[0]

    def is_code(self, name: str) -> bool:
        """Return whether a file is neither a test nor a migration."""
        path = PurePosixPath(name)
        is_test = (
            path.name.startswith("test_") or path.name == "conftest.py" or APART & {*path.parts}
        )
        return not is_test and not (self.alembic and path.is_relative_to(self.alembic))

    # ── New places ────────────────────────────────────────────────────────────────────────────

    def plan(self) -> None:
        """Fill `moves` and `names`."""
        package, parts = self.package, PurePosixPath(self.application).parts
        root = f"src/{package}"
        if parts[0] == "src" and len(parts) == 2:
            for name in self.tops("src/"):
                self.moves[f"src/{name}"] = f"{root}/{name}"
                self.names[name.removesuffix(".py")] = f"{package}.{name.removesuffix('.py')}"
            self.names["src"] = package
        elif parts[0] == "src":
            self.put(f"src/{parts[1]}", parts[1])
        elif len(parts) > 1:
            self.put(parts[0], parts[0])
        units = self.units()
        start = [self.application] if len(parts) == 1 else []
        pending = {name for path in start for name in units if units[name] == path}
        pending |= self.imported(units, self.moved_sources() | self.outside_sources())
        while pending:
            name = pending.pop()
            if name in self.names or units[name] in self.moves:
                continue
            self.put(units[name], name, inside=True)
            pending |= self.imported(units, self.moved_sources())
        if self.alembic:
            if self.alembic not in self.moves and not self.new_place(self.alembic):
                self.moves[self.alembic] = f"{root}/migrations"
            self.moves["alembic.ini"] = f"{root}/alembic.ini"
        for name in sorted(self.moved_sources()):
            for found in path_texts(self.trees[name]):
                top = PurePosixPath(found).parts[0] if found not in ("", ".") else ""
                is_apart = top in {"", "src", *APART} or top.startswith(".")
                if not is_apart and self.exists(top) and not self.new_place(top):
                    self.moves[top] = f"{root}/{top}"
        for name in self.files:
            is_test = re.fullmatch(r"test_\w+\.py|\w+_test\.py", name)
            if is_test:
                self.moves[name] = f"tests/{name}"
        for name in self.files:
            new = self.new_place(name) or name
            if new.startswith((f"{root}/serving/", "tests/serving/")):
                raise RefusedError(f"{name}: {new} is a path of the template: rename it first")
        places = [*self.moves.values()]
        for old, new in self.moves.items():
            if places.count(new) > 1:
                raise RefusedError(f"{old}: {new} has two sources")

    def put(self, path: str, name: str, inside: bool = False) -> None:
        """Move a top-level module, a file or a directory; rename it to the package's name."""
        package = self.package
        is_package = not path.endswith(".py") and (not inside or name == package)
        place = f"src/{package}" if is_package else f"src/{package}/{PurePosixPath(path).name}"
        new = package if is_package else f"{package}.{name}"
        if place == f"src/{package}/app" or (place == f"src/{package}/app.py" and self.named_app()):
            raise RefusedError(
                f"{path}: src/{package}/app.py must be the application: "
                "copy with -d package_name=app"
            )
        if path != place:
            self.moves[path] = place
        if name != new:
            self.names[name] = new

    def named_app(self) -> bool:
        """Return whether a module `app` is not the application."""
        return PurePosixPath(self.application).stem != "app"

    def tops(self, prefix: str) -> list[str]:
        """Return the entries of a directory."""
        return sorted(
            {n.removeprefix(prefix).split("/")[0] for n in self.files if n.startswith(prefix)}
        )

    def exists(self, path: str) -> bool:
        """Return whether a path was a file or a directory."""
        return any(name == path or name.startswith(f"{path}/") for name in self.files)

    def units(self) -> dict[str, str]:
        """Return the top-level modules, by name."""
        found = {}
        for top in self.tops(""):
            has_code = any(n.startswith(f"{top}/") and n in self.sources for n in self.files)
            if top in APART or top.startswith(".") or top in ("src", self.alembic):
                continue
            if top in self.sources and self.is_code(top) and top != "setup.py":
                found[top.removesuffix(".py")] = top
            elif has_code and top.isidentifier():
                found.setdefault(top, top)
        return found

    def imported(self, units: dict[str, str], names: set[str]) -> set[str]:
        """Return those of `units` that files import."""
        return {each for name in names for each in imports(self.trees[name])} & units.keys()

    def moved_sources(self) -> set[str]:
        """Return the Python files that are in the package after the move."""
        prefix = f"src/{self.package}/"
        return {n for n in self.sources if (self.new_place(n) or n).startswith(prefix)}

    def outside_sources(self) -> set[str]:
        """Return tests and migrations."""
        return {n for n in self.sources if not self.is_code(n)}

    def new_place(self, path: str) -> str | None:
        """Return the new path of a file or directory; None if it stays."""
        for parent in [PurePosixPath(path), *PurePosixPath(path).parents]:
            if new := self.moves.get(str(parent)):
                rest = PurePosixPath(path).relative_to(parent)
                return str(PurePosixPath(new) / rest)
        return None


def parse(text: str) -> ast.Module | None:
    """Parse a file; None if it is not Python, such as a template with the suffix .py."""
    try:
        return ast.parse(text)
    except SyntaxError:
        return None


def called(call: ast.Call) -> str:
    """Return the last part of the name of the called function."""
    function = call.func
    return getattr(function, "attr", getattr(function, "id", ""))


def applications(tree: ast.AST) -> list[tuple[ast.stmt, str]]:
    """Return the statements that create an application, with its name."""
    found: list[tuple[ast.stmt, str]] = []
    for node in ast.walk(tree):
        if isinstance(node, ast.Assign | ast.AnnAssign) and isinstance(node.value, ast.Call):
            target = node.targets[0] if isinstance(node, ast.Assign) else node.target
            if called(node.value) == "FastAPI" and isinstance(target, ast.Name):
                found.append((node, target.id))
    return found


def imports(tree: ast.AST) -> Iterator[str]:
    """Yield the top-level modules that a file imports with absolute names."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name.split(".")[0] for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            yield node.module.split(".")[0]


def path_constants(tree: ast.AST) -> Iterator[tuple[ast.Constant, bool]]:
    """Yield strings that are used as paths, and whether they are relative to `__file__`."""
    for node in ast.walk(tree):
        if isinstance(node, ast.BinOp) and isinstance(node.op, ast.Div):
            if isinstance(node.right, ast.Constant) and isinstance(node.right.value, str):
                yield node.right, True
        elif isinstance(node, ast.Call):
            arguments = [node.args[0]] if node.args and called(node) in PATH_CALLS else []
            if called(node) == "set_main_option":
                arguments = node.args[1:]
            arguments += [k.value for k in node.keywords if k.arg in PATH_ARGUMENTS]
            for argument in arguments:
                if isinstance(argument, ast.Constant) and isinstance(argument.value, str):
                    yield argument, False


def path_texts(tree: ast.AST) -> Iterator[str]:
    """Yield the `path_constants` that may be paths of the service."""
    for constant, _ in path_constants(tree):
        text = str(PurePosixPath(str(constant.value)))
        if re.fullmatch(r"[\w.-]+(/[\w.-]+)*", text) and ".." not in text:
            yield text


# ── Rewriting ─────────────────────────────────────────────────────────────────────────────────


class Editor:
    """A Python file, and the edits to make in it."""

    def __init__(self, service: Service, name: str) -> None:
        self.service, self.name = service, name
        self.new = service.new_place(name) or name
        self.content = service.sources[name].encode()
        self.tree = service.trees[name]
        starts = [0]
        for line in self.content.splitlines(keepends=True):
            starts.append(starts[-1] + len(line))
        self.starts = starts
        self.edits: list[tuple[int, int, str]] = []
        self.needs_pathlib = False

    def replace(self, node: ast.AST, text: str) -> None:
        """Replace the source of a node."""
        at: Any = node
        start = self.starts[at.lineno - 1] + at.col_offset
        self.edits.append((start, self.starts[at.end_lineno - 1] + at.end_col_offset, text))

    def insert_after(self, node: ast.stmt, lines: list[str]) -> None:
        """Insert lines after a statement."""
        place = self.starts[node.end_lineno or node.lineno]
        indent = " " * node.col_offset
        text = "".join(f"{indent}{line}\n" for line in lines)
        before = self.content[place - 1 : place]
        self.edits.append((place, place, text if before == b"\n" else f"\n{text}"))

    def insert_import(self, line: str) -> None:
        """Insert an import before the others."""
        body = [n for n in self.tree.body if not is_future(n)]
        if body and isinstance(body[0], ast.Expr) and isinstance(body[0].value, ast.Constant):
            body = body[1:]
        place = self.starts[body[0].lineno - 1] if body else len(self.content)
        self.edits.append((place, place, f"{line}\n"))

    def result(self) -> str:
        """Return the new text."""
        if self.needs_pathlib:
            self.insert_import("import pathlib")
        content = self.content
        # From the end of the file; an insertion at the start of a replacement is made after it.
        order = [(start, end > start, n) for n, (start, end, _) in enumerate(self.edits)]
        for _, _, number in sorted(order, reverse=True):
            start, end, text = self.edits[number]
            content = content[:start] + text.encode() + content[end:]
        return content.decode()

    # ── Replacements ──────────────────────────────────────────────────────────────────────────

    def rewrite(self) -> None:
        """Replace imports, names of modules in strings, and paths."""
        for node in ast.walk(self.tree):
            if isinstance(node, ast.Import):
                self.rewrite_import(node)
            elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
                if new := self.renamed(node.module):
                    segment = ast.get_source_segment(self.content.decode(), node) or ""
                    pattern = rf"^from(\s+){re.escape(node.module)}\b"
                    self.replace(node, re.sub(pattern, rf"from\g<1>{new}", segment))
            elif isinstance(node, ast.Call) and called(node) in NAME_CALLS:
                for constant in node.args:
                    if isinstance(constant, ast.Constant) and isinstance(constant.value, str):
                        self.rewrite_name(constant, r"[\w.]+")
        self.rewrite_paths()

    def renamed(self, module: str) -> str | None:
        """Return the new name of a module; None if it stays."""
        top, dot, rest = module.partition(".")
        new = self.service.names.get(top)
        return f"{new}{dot}{rest}" if new else None

    def rewrite_import(self, node: ast.Import) -> None:
        """Import from the new place under the old name."""
        if not any(self.renamed(alias.name) for alias in node.names):
            return
        lines = []
        for alias in node.names:
            new = self.renamed(alias.name)
            if not new:
                lines.append(
                    "import " + alias.name + (f" as {alias.asname}" if alias.asname else "")
                )
                continue
            top = alias.name.split(".")[0]
            if "." in alias.name or alias.asname:
                # The name is bound by the next line, so ruff considers this import unused.
                lines.append(
                    f"import {new}" + (f" as {alias.asname}" if alias.asname else "  # noqa: F401")
                )
            if not alias.asname:
                parent, _, last = self.service.names[top].rpartition(".")
                bound = f"from {parent} import {last}" if parent else f"import {last}"
                lines.append(bound + (f" as {top}" if last != top else ""))
        self.replace(node, f"\n{' ' * node.col_offset}".join(lines))

    def rewrite_name(self, constant: ast.Constant, pattern: str) -> None:
        """Replace the name of a module, or of an object in it, in a string."""
        text = str(constant.value)
        if re.fullmatch(pattern, text) and (new := self.renamed(re.split(r":", text)[0])):
            self.replace(constant, repr_like(new + text[len(text.split(":")[0]) :]))

    def rewrite_paths(self) -> None:
        """Replace paths that are relative to the working directory."""
        service = self.service
        by_place = {id(constant): is_own for constant, is_own in path_constants(self.tree)}
        for node in ast.walk(self.tree):
            if not isinstance(node, ast.Constant) or not isinstance(node.value, str):
                continue
            text = node.value
            self.rewrite_name(node, r"[\w.]+:\w+(\(\))?")
            path = str(PurePosixPath(text)) if re.fullmatch(r"[\w./-]+", text) else ""
            is_named = id(node) in by_place or "/" in path or path == "alembic.ini"
            if not path or not is_named or by_place.get(id(node)) or not service.exists(path):
                continue
            new = service.new_place(path)
            if new is None:
                continue
            if not self.new.startswith(f"src/{service.package}/"):
                self.replace(node, repr_like(new))
                continue
            own, target = PurePosixPath(self.new).parent, PurePosixPath(new)
            up = 0
            while not target.is_relative_to(own):
                own, up = own.parent, up + 1
            self.replace(
                node,
                f"pathlib.Path(__file__).parents[{up}] / {repr_like(str(target.relative_to(own)))}",
            )
            self.needs_pathlib = True


def is_future(node: ast.stmt) -> bool:
    """Return whether a statement must come first in a file."""
    return isinstance(node, ast.ImportFrom) and node.module == "__future__"


def repr_like(text: str) -> str:
    """Return a string in double quotes."""
    return f'"{text}"'


# ── The move ──────────────────────────────────────────────────────────────────────────────────


def move(application: str | None) -> None:
    """Move the service of HEAD into the template's layout."""
    service = Service(application)
    package, output = service.package, []
    editors = {name: Editor(service, name) for name in service.sources}
    for editor in editors.values():
        editor.rewrite()
    seeds = [n for n, owner in service.owners.items() if owner == "team"]
    taken = {service.new_place(name) or name for name in service.files}
    settings = f"src/{package}/settings.py"
    has_own_settings = settings in taken or f"src/{package}/settings" in service.moves.values()
    has_own_settings = has_own_settings or any(
        n.startswith(f"src/{package}/settings/") for n in taken
    )
    install(service, editors[service.application], has_own_settings)

    pyproject = None
    if str(PYPROJECT) in service.files:
        elsewhere = {"tox.ini": "[pytest]", "setup.cfg": "[tool:pytest]"}
        pyproject, lines = merge_pyproject(
            PYPROJECT.read_text("utf-8"),
            at_head(str(PYPROJECT)),
            has_other_pytest=any(
                name in service.files and table in at_head(name)
                for name, table in elsewhere.items()
            ),
        )
        output += lines

    # Up to here nothing has been written.
    output += restore(service)
    if pyproject:
        PYPROJECT.write_text(pyproject, encoding="utf-8")
    for name in service.files:
        new = service.new_place(name)
        if new and new != name:
            Path(new).parent.mkdir(parents=True, exist_ok=True)
            Path(name).rename(new)
    for editor in editors.values():
        if editor.edits:
            Path(editor.new).write_text(editor.result(), encoding="utf-8")
            output.append(f"{editor.new}: rewritten")
    if service.alembic:
        move_alembic(Path(f"src/{package}"), service.new_place(service.alembic) or "")
    remove_examples(service, seeds, taken, has_own_settings)
    write_app(service, taken)
    for old in sorted(service.moves):
        for folder in sorted(Path(old).rglob("*"), reverse=True) if Path(old).is_dir() else []:
            if folder.is_dir() and not any(folder.iterdir()):
                folder.rmdir()
        if Path(old).is_dir() and not any(Path(old).iterdir()):
            Path(old).rmdir()
    print(*(f"{old} → {new}" for old, new in sorted(service.moves.items())), sep="\n")
    print(*output, *remaining_steps(service, editors), sep="\n")


def restore(service: Service) -> Iterator[str]:
    """Restore the team's files; yield a line for each file that is now the template's."""
    for name in git("diff", "--name-only", "-z", "HEAD").split("\0")[:-1]:
        if name not in service.files or name == str(PYPROJECT) or not Path(name).exists():
            continue
        if service.owners.get(name) == "team":
            git("checkout", "HEAD", "--", name)
        elif name in JOINED:
            join(Path(name), at_head(name))
        elif service.owners.get(name) == "template":
            yield f"{name}: now the template's; yours: git show HEAD:{name}"


def join(path: Path, own: str) -> None:
    """Add the team's lines that the template's file lacks."""
    text = path.read_text(encoding="utf-8")

    def key(line: str) -> str:
        return line.split("=")[0].lstrip("#") if path.name == ".env.example" else line

    there = {key(line) for line in text.splitlines()}
    missing = [line for line in own.splitlines() if not line.strip() or key(line) not in there]
    path.write_text(text + "\n".join(missing).strip("\n") + "\n", encoding="utf-8")


def move_alembic(package: Path, migrations: str) -> None:
    """Set the directory of the migrations in alembic.ini."""
    path = package / "alembic.ini"
    line = f"script_location = %(here)s/{PurePosixPath(migrations).relative_to(package)}"
    text = path.read_text(encoding="utf-8")
    text = re.sub(r"^script_location\s*=.*$", line, text, flags=re.MULTILINE)
    path.write_text(text, encoding="utf-8")


def remove_examples(
    service: Service, seeds: list[str], taken: set[str], has_own_settings: bool
) -> None:
    """Delete the template's files for new services."""
    package = f"src/{service.package}"
    unneeded = [name for name in seeds if name.endswith(EXAMPLES)]
    unneeded += [f"{package}/routes/__init__.py", f"{package}/app.py", "tests/conftest.py"]
    if has_own_settings:
        unneeded += [f"{package}/settings.py", "tests/test_env_example.py"]
    if any(n.startswith("tests/") and n.endswith(".py") for n in service.files):
        unneeded.append("tests/__init__.py")
    if not any(n.startswith(f"{package}/") for n in taken if n.endswith("py.typed")):
        unneeded.append(f"{package}/py.typed")
    for name in unneeded:
        if name not in taken:
            Path(name).unlink(missing_ok=True)
    routes = Path(package, "routes")
    if routes.is_dir() and not any(routes.iterdir()):
        routes.rmdir()
    locustfile = Path("tests/load/locustfile.py")
    if str(locustfile) not in taken and locustfile.exists():
        text = locustfile.read_text(encoding="utf-8")
        text = text.replace('"/large-response"', '"/health/ready"').replace(
            "large_response", "ready"
        )
        text = text.replace(
            "Request the example route.", "Request readiness; replace it with your users' requests."
        )
        locustfile.write_text(text, encoding="utf-8")


def module_of(service: Service, name: str) -> str:
    """Return the name of a module relative to the package, with a leading dot."""
    path = PurePosixPath(service.new_place(name) or name).relative_to(f"src/{service.package}")
    parts = [*path.parent.parts, path.stem]
    return "." + ".".join(part for part in parts if part != "__init__")


def install(service: Service, editor: Editor, has_own_settings: bool) -> None:
    """Install the serving layer, in the file that creates the application."""
    statement, name = applications(editor.tree)[0]
    package = service.package
    settings = "serving.ServingSettings" if has_own_settings else "Settings"
    editor.insert_after(
        statement,
        [
            "# Errors keep FastAPI's bodies; without `problems=False` they are problem details.",
            f"serving.install({name}, serving.load({settings}), problems=False)",
        ],
    )
    taken = {n.id for n in ast.walk(editor.tree) if isinstance(n, ast.Name)}
    taken |= {
        a.asname or a.name
        for n in ast.walk(editor.tree)
        if isinstance(n, ast.Import | ast.ImportFrom)
        for a in n.names
    }
    if not has_own_settings and "Settings" not in taken:
        editor.insert_import(f"from {package}.settings import Settings")
    elif not has_own_settings:
        editor.edits[-1] = (
            *editor.edits[-1][:2],
            editor.edits[-1][2].replace("load(Settings)", "load(serving.ServingSettings)"),
        )
    if "serving" in taken:
        raise RefusedError(
            f"{editor.name}: it uses the name `serving`, which the layer needs: rename yours"
        )
    editor.insert_import(f"from {package} import serving")


def write_app(service: Service, taken: set[str]) -> None:
    """Write app.py, which servers and scripts import, unless the application is in it."""
    statement, name = applications(service.trees[service.application])[0]
    tree, module = service.trees[service.application], module_of(service, service.application)
    factory = next(
        (n.name for n in tree.body if isinstance(n, ast.FunctionDef) and statement in ast.walk(n)),
        None,
    )
    path = f"src/{service.package}/app.py"
    if not factory:
        lines = [f"from {module} import {name}" + ("" if name == "app" else " as app")]
        lines += ["", '__all__ = ["app"]']
    else:
        lines = [f"from {module} import {factory}", "", f"app = {factory}()"]
        made = made_by(service, factory)
        if made:
            lines = [
                f"from {module_of(service, made[0])} import {made[1]}"
                + ("" if made[1] == "app" else " as app"),
                "",
                '__all__ = ["app"]',
            ]
    if module == ".app":
        if factory and not any(binds(node, "app") for node in tree.body):
            with Path(path).open("a", encoding="utf-8") as file:
                file.write(f"\n\napp = {factory}()\n")
        return
    if path in taken:
        raise RefusedError(f"{path}: servers import `app` from it: rename yours first")
    text = '"""The application, for servers and scripts."""\n\n' + "\n".join(lines) + "\n"
    Path(path).write_text(text, encoding="utf-8")


def made_by(service: Service, factory: str) -> tuple[str, str] | None:
    """Return the file in the package that calls the factory on import, and the result's name."""
    for name in sorted(service.moved_sources()):
        for node in service.trees[name].body:
            if isinstance(node, ast.Assign) and isinstance(node.value, ast.Call):
                target = node.targets[0]
                if called(node.value) == factory and isinstance(target, ast.Name):
                    return name, target.id
    return None


def binds(node: ast.stmt, name: str) -> bool:
    """Return whether a statement assigns to a name."""
    targets = node.targets if isinstance(node, ast.Assign) else []
    return any(isinstance(target, ast.Name) and target.id == name for target in targets)


# ── Remaining steps ───────────────────────────────────────────────────────────────────────────


def remaining_steps(service: Service, editors: dict[str, Editor]) -> Iterator[str]:
    """Yield a line for each thing to review by hand."""
    fields = reserved(service)
    for name in service.unreadable:
        yield f"{service.new_place(name) or name}: not valid Python, left unchanged"
    for name in sorted(service.moved_sources()):
        new = editors[name].new
        text = Path(new).read_text(encoding="utf-8")
        for number, line in enumerate(text.splitlines() if new != name else [], 1):
            ups = len(re.findall(r"\.parent\b|dirname", line)) + 2 * len(
                re.findall(r"parents\[[1-9]", line)
            )
            is_own = "pathlib.Path(__file__).parents" in line  # written above
            if "__file__" in line and ups > 1 and not is_own:
                yield f"{new}:{number}: uses a path relative to its old place"
        for node in ast.walk(ast.parse(text)):
            if isinstance(node, ast.ClassDef) and any(
                "Settings" in ast.unparse(base) for base in node.bases
            ):
                yield from collisions(node, new, fields)
    for name in service.files:
        if name in ("setup.py", "setup.cfg", "MANIFEST.in", "Pipfile", "Procfile", "tox.ini"):
            yield f"{name}: check what is still needed"


def reserved(service: Service) -> set[str]:
    """Return the variables of the serving layer."""
    path = Path(f"src/{service.package}/serving/settings.py")
    tree = ast.parse(path.read_text(encoding="utf-8"))
    fields = {"web_concurrency", "forwarded_allow_ips", "bind"}
    for node in ast.walk(tree):
        if isinstance(node, ast.ClassDef) and node.name == "ServingSettings":
            fields |= {
                s.target.id
                for s in node.body
                if isinstance(s, ast.AnnAssign) and isinstance(s.target, ast.Name)
            }
    return fields


def collisions(node: ast.ClassDef, name: str, fields: set[str]) -> Iterator[str]:
    """Yield a line for each field of a team's settings that is a variable of the serving layer."""
    source = ast.unparse(node)
    prefix = re.search(r"env_prefix['\"]?\s*[=:]\s*['\"](\w*)['\"]", source)
    for statement in node.body:
        if isinstance(statement, ast.AnnAssign) and isinstance(statement.target, ast.Name):
            variable = f"{prefix[1] if prefix else ''}{statement.target.id}".lower()
            if variable in fields:
                place = f"{name}:{statement.lineno}"
                yield f"{place}: {variable.upper()} is a variable of the serving layer"


def main() -> int:
    """Run a command; return the exit status."""
    parser = argparse.ArgumentParser(
        prog="adopt.py",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    commands = parser.add_subparsers(dest="command", required=True)
    higher = commands.add_parser("raise", help="require the newest FastAPI, in the old layout")
    higher.add_argument("names", nargs="*", metavar="NAME", help="also the newest of these")
    mover = commands.add_parser("move", help="move the code into the template's layout")
    mover.add_argument("--application", metavar="FILE", help="the file with the application")
    arguments = parser.parse_args()
    try:
        if arguments.command == "raise":
            raise_floors(arguments.names)
        else:
            move(arguments.application)
    except RefusedError as refused:
        print(f"adopt.py: {refused}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
