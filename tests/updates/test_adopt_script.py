"""scripts/adopt.py on small services: moves, refusals, remaining steps."""

import shutil
import sys
import tomllib
from collections.abc import Callable
from pathlib import Path

import pytest

from ..conftest import Render
from ..harness.project import UV, Project
from ..harness.template import ROOT, commit, git

MOVE = (sys.executable, str(ROOT / "scripts/adopt.py"), "move")
MAIN = "from fastapi import FastAPI\n\napp = FastAPI()\n"

Grow = Callable[..., Project]


@pytest.fixture(scope="module")
def python(render: Render) -> str:
    """A Python with the dependencies of a service."""
    project = render(deployment="vm")
    project.uv("sync", "--quiet")
    return project.program("python")


@pytest.fixture
def grow(render: Render, tmp_path: Path) -> Grow:
    """Commit a service of these files, then copy the template onto it."""

    def grow(files: dict[str, str], package: str = "orders") -> Project:
        path = tmp_path / "service"
        for name, text in files.items():
            file = path / name
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_text(text)
        git(tmp_path, "init", "--quiet", "--initial-branch", "main", "service")
        commit(path, "a service")
        rendered = render(deployment="vm", package_name=package).path
        left_out = shutil.ignore_patterns(".git", ".venv", ".*_cache", "uv.lock")
        shutil.copytree(rendered, path, ignore=left_out, dirs_exist_ok=True)
        return Project(path)

    return grow


def move(project: Project, *options: str) -> str:
    return project.run(*MOVE, *options).stdout


def read(project: Project, name: str) -> str:
    return (project.path / name).read_text()


# ── New places ────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    ("package", "old", "module"),
    [
        ("orders", "app/main.py", "app.prices"),
        ("app", "app/main.py", "app.prices"),
        ("orders", "src/main.py", "src.prices"),
        ("orders", "src/main.py", "prices"),
        ("orders", "src/shop/main.py", "shop.prices"),
        ("orders", "orders/app.py", "orders.prices"),
        ("orders", "main.py", "prices"),
    ],
)
def test_service_of_any_layout_is_imported_from_its_package(
    grow: Grow, python: str, package: str, old: str, module: str
) -> None:
    main = f"import {module} as prices\n{MAIN}\nPRICE = prices.PRICE\n"
    prices = str(Path(old).with_name("prices.py"))
    test = f"from unittest.mock import patch\npatch('{module}.PRICE', 4).start()\n"
    project = grow({old: main, prices: "PRICE = 3\n", "tests/test_prices.py": test}, package)

    move(project)

    assert not (project.path / old).exists()
    code = (
        f"from {package}.app import app\nfrom {package}.{Path(old).stem} import PRICE\n"
        f"import {package}.prices as prices, runpy\nrunpy.run_path('tests/test_prices.py')\n"
        f"print(type(app).__mro__[1].__name__, PRICE, prices.PRICE)"
    )
    result = project.run(python, "-c", code, env={"PYTHONPATH": "src"})
    assert result.stdout == "FastAPI 3 4\n"


FACTORY = """\
from fastapi import FastAPI

def make(debug=False):
    application = FastAPI(
        debug=debug,
    )
    return application
"""


@pytest.mark.parametrize(
    ("files", "imported"),
    [
        ({"shop/main.py": MAIN.replace("app =", "api: FastAPI =")}, "from .main import api as app"),
        ({"shop/factory.py": FACTORY}, "app = make()"),
        (
            {
                "shop/factory.py": FACTORY,
                "shop/asgi.py": "from .factory import make\n\nit = make()\n",
            },
            "from .asgi import it as app",
        ),
        ({"shop/app.py": FACTORY}, "app = make()"),
        ({"shop/__init__.py": MAIN}, "from . import app"),
    ],
    ids=["another name", "factory", "factory and module", "factory in app.py", "in the package"],
)
def test_application_is_found_by_servers(
    grow: Grow, python: str, files: dict[str, str], imported: str
) -> None:
    project = grow({"shop/__init__.py": "", **files}, "shop")

    move(project)

    assert imported in read(project, "src/shop/app.py")
    code = "from shop.app import app; print([r.path for r in app.routes if 'health' in r.path])"
    result = project.run(python, "-c", code, env={"PYTHONPATH": "src"})
    assert result.stdout == "['/health/live', '/health/ready']\n"


def test_paths_of_the_working_directory_are_found_from_anywhere(
    grow: Grow, python: str, tmp_path: Path
) -> None:
    main = """\
from fastapi import FastAPI, Path
from fastapi.staticfiles import StaticFiles

app = FastAPI()
app.mount("/static", StaticFiles(directory="app/static"), name="static")
text = open("data/terms.txt").read()
"""
    project = grow({"app/main.py": main, "app/static/a.css": "", "data/terms.txt": "fair"}, "app")

    move(project)

    code = "from app.main import app, text, Path; print(text, Path.__module__)"
    env = {"PYTHONPATH": str(project.path / "src")}
    result = Project(tmp_path).run(python, "-c", code, env=env)
    assert result.stdout == "fair fastapi.param_functions\n"


def test_settings_of_the_team_are_kept(grow: Grow, python: str) -> None:
    settings = (
        "from pydantic_settings import BaseSettings\n\n"
        "class Settings(BaseSettings):\n    log_level: int = 10\n"
    )
    project = grow(
        {"app/main.py": f"from app.settings import Settings\n{MAIN}", "app/settings.py": settings},
        "app",
    )

    output = move(project)

    assert "src/app/settings.py:4: LOG_LEVEL is a variable of the serving layer" in output
    assert read(project, "src/app/settings.py") == settings
    assert "serving.load(serving.ServingSettings)" in read(project, "src/app/main.py")
    assert not (project.path / "tests/test_env_example.py").exists()
    project.run(python, "-c", "import app.app", env={"PYTHONPATH": "src"})


def test_prefixed_setting_does_not_collide(grow: Grow) -> None:
    config = (
        "class Settings(BaseSettings):\n"
        "    model_config = SettingsConfigDict(env_prefix='SHOP_')\n"
        "    log_level: int = 10\n"
    )

    assert "LOG_LEVEL" not in move(grow({"app/main.py": MAIN, "app/config.py": config}, "app"))


PYPROJECT = """\
[project]
name = "orders"
version = "7.1"
requires-python = ">=3.12"
dependencies = ["fastapi==0.115.0", "pydantic-settings==2.6.1", "sqlalchemy<3"]

[project.scripts]
orders = "orders.cli:main"

[project.optional-dependencies]
dev = ["pytest==7.0", "respx"]
geo = ["shapely"]

[dependency-groups]
docs = ["sphinx"]

[tool.uv.sources]
sqlalchemy = { git = "https://example.com/sqlalchemy" }

[tool.pytest.ini_options]
markers = ["slow"]

[tool.coverage.run]
branch = true
"""


def test_requirements_and_settings_are_merged_and_no_lower_bound_is_lowered(grow: Grow) -> None:
    project = grow({"orders/app.py": MAIN, "pyproject.toml": PYPROJECT})
    before = tomllib.loads(read(project, "pyproject.toml"))

    move(project)

    now = tomllib.loads(read(project, "pyproject.toml"))
    assert now["project"]["dependencies"] == [*before["project"]["dependencies"], "sqlalchemy<3"]
    assert now["dependency-groups"]["dev"] == [*before["dependency-groups"]["dev"], "respx"]
    assert now["dependency-groups"]["docs"] == ["sphinx"]
    assert now["project"]["optional-dependencies"] == {"geo": ["shapely"]}
    assert now["project"]["scripts"] == {"orders": "orders.cli:main"}
    assert now["project"]["version"] == "7.1"
    assert now["project"]["requires-python"] == ">=3.12"
    assert now["tool"]["pytest"]["ini_options"] == {"markers": ["slow"], "testpaths": ["tests"]}
    assert now["tool"]["coverage"] == {"run": {"branch": True}}
    assert now["tool"]["uv"]["sources"].keys() == {"sqlalchemy"}
    assert now["build-system"] == before["build-system"]
    assert project.run(sys.executable, "scripts/checks/dependencies.py").stdout == ""


@pytest.mark.parametrize(
    ("name", "text"),
    [("setup.cfg", "[tool:pytest]\naddopts = -q\n"), ("tox.ini", "[pytest]\naddopts = -q\n")],
)
def test_pytest_settings_in_other_files_stay_in_effect(grow: Grow, name: str, text: str) -> None:
    project = grow(
        {
            "orders/app.py": MAIN,
            "pyproject.toml": PYPROJECT.replace("tool.pytest", "tool.x"),
            name: text,
        }
    )

    move(project)

    assert "pytest" not in tomllib.loads(read(project, "pyproject.toml"))["tool"]


def test_files_of_service_and_template_are_merged_kept_or_listed(grow: Grow) -> None:
    project = grow(
        {
            "main.py": MAIN,
            "test_main.py": "from main import app\n",
            "README.md": "# Ours\n",
            ".gitignore": ".venv/\n*.db\n",
            ".env.example": "LOG_LEVEL=debug\nPRICE=3\n",
            "Dockerfile": "FROM scratch\n",
            "tests/conftest.py": "import models\n",
            "models.py": "",
        }
    )

    output = move(project)

    assert read(project, "README.md") == "# Ours\n"
    assert read(project, ".gitignore").endswith("here on.\n*.db\n")
    assert read(project, ".env.example").endswith("here on.\nPRICE=3\n")
    assert "Dockerfile: now the template's; yours: git show HEAD:Dockerfile" in output
    assert read(project, "tests/conftest.py") == "from orders import models\n"
    assert read(project, "tests/test_main.py") == "from orders.main import app\n"
    assert not (project.path / "tests/test_large_response.py").exists()
    locustfile = read(project, "tests/load/locustfile.py")
    assert "/health/ready" in locustfile
    assert "example" not in locustfile


def test_remaining_steps_are_listed(grow: Grow) -> None:
    main = f"import pathlib\n{MAIN}\nROOT = pathlib.Path(__file__).resolve().parent.parent\n"
    files = {
        "app/main.py": main,
        "app/{{x}}.py": "{{ x }} y\n",
        "setup.py": "",
        "Procfile": "web: x\n",
    }

    output = move(grow(files, "app"))

    assert "src/app/main.py:10: uses a path relative to its old place" in output
    assert "src/app/{{x}}.py: not valid Python, left unchanged" in output
    assert "setup.py: check what is still needed" in output
    assert "Procfile: check what is still needed" in output


# ── Refusals ──────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    ("files", "line"),
    [
        ({"main.py": "app = None\n"}, "no file with `… = FastAPI(…)`: give the application a name"),
        (
            {"one.py": MAIN, "two.py": MAIN},
            "which is the application, one.py or two.py? Name it: move --application FILE",
        ),
        (
            {"orders/main.py": MAIN, "orders/serving/a.py": ""},
            "orders/serving/a.py: src/orders/serving/a.py is a path of the template: "
            "rename it first",
        ),
        (
            {"main.py": f"import app\n{MAIN.replace('app =', 'api =')}", "app/prices.py": ""},
            "app: src/orders/app.py must be the application: copy with -d package_name=app",
        ),
        (
            {"orders/main.py": f"serving = 1\n{MAIN}"},
            "orders/main.py: it uses the name `serving`, which the layer needs: rename yours",
        ),
    ],
)
def test_refusal_prints_one_line_and_writes_nothing(
    grow: Grow, files: dict[str, str], line: str
) -> None:
    project = grow(files)
    before = git(project.path, "status", "--porcelain", "--untracked-files=all")

    result = project.run(*MOVE, check=False)

    assert (result.returncode, result.stdout) == (1, f"adopt.py: {line}\n")
    assert git(project.path, "status", "--porcelain", "--untracked-files=all") == before


def test_one_of_several_applications_is_chosen(grow: Grow) -> None:
    project = grow({"one.py": MAIN, "two.py": MAIN})

    move(project, "--application", "two.py")

    assert "serving.install" in read(project, "src/orders/two.py")
    assert (project.path / "one.py").exists()


def test_script_refuses_before_a_copy_and_after_its_commit(grow: Grow, tmp_path: Path) -> None:
    project = grow({"main.py": MAIN})
    commit(project.path, "copied")
    git(tmp_path, "init", "--quiet", "--initial-branch", "main", "bare")
    commit(tmp_path / "bare", "nothing")

    late = project.run(*MOVE, check=False)
    early = Project(tmp_path / "bare").run(*MOVE, check=False)

    assert "committed: move runs between `copier copy` and the commit" in late.stdout
    assert "missing: run `copier copy` first, here" in early.stdout


@pytest.mark.parametrize(
    ("text", "names", "line"),
    [
        (None, (), "pyproject.toml: missing: "),
        (
            "[tool.poetry]\nname = 'x'\n",
            (),
            "no [project] table: `uv tool run migrate-to-uv` creates one",
        ),
        ("[project]\nname = 'x'\nversion = '1'\n", ("sqlalchemy",), "sqlalchemy: not required"),
    ],
)
def test_invalid_raise_prints_one_line(
    tmp_path: Path, text: str | None, names: tuple[str, ...], line: str
) -> None:
    if text:
        (tmp_path / "pyproject.toml").write_text(text)

    result = Project(tmp_path).run(*MOVE[:2], "raise", *names, check=False)

    assert (result.returncode, result.stdout.count("\n")) == (1, 1)
    assert line in result.stdout


def test_failed_lock_leaves_pyproject_unchanged(tmp_path: Path) -> None:
    text = "[project]\nname = 'x'\nversion = '1'\nrequires-python = '>=3.11'\n"
    text += "dependencies = ['fastapi==0.115.0', 'starlette-context', 'sqlalchemy==999']\n"
    (tmp_path / "pyproject.toml").write_text(text)

    result = Project(tmp_path).run(*MOVE[:2], "raise", env={"UV": UV}, check=False)

    assert result.returncode == 1
    assert result.stdout.endswith("`raise NAME…` also upgrades packages that block others\n")
    assert (tmp_path / "pyproject.toml").read_text() == text
