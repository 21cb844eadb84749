"""Invalid answers print one line with the accepted values, and write no file."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

from ..harness.template import LATEST, render

COPIER = str(Path(sys.executable).with_name("copier"))


def copy(template: Path, destination: Path, *data: str) -> subprocess.CompletedProcess[str]:
    """Run `copier copy --defaults`, as in the README."""
    command = [COPIER, "copy", "--defaults", "--vcs-ref", LATEST]
    for pair in data:
        command += ["-d", pair]
    return subprocess.run(
        [*command, str(template), str(destination)],
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
    )


UNUSABLE_NAME = "Validation error for question 'project_name': start with a letter; ASCII letters"
UNUSABLE_NETWORK = "'proxy_network': an IPv4 network without host bits such as 10.244.0.0/16"


@pytest.mark.parametrize(
    ("question", "answer", "line"),
    [
        ("project_name", "1shop", UNUSABLE_NAME),
        ("project_name", "Über API", UNUSABLE_NAME),
        ("project_name", "", UNUSABLE_NAME),
        ("project_name", "a" * 200, UNUSABLE_NAME),
        ("project_name", "../shop", UNUSABLE_NAME),
        ("project_name", "/etc/shop", UNUSABLE_NAME),
        ("project_name", "a  b", UNUSABLE_NAME),
        ("project_name", "shop\n", UNUSABLE_NAME),
        ("project_name", "class", "'package_name': 'class' is a Python keyword"),
        ("project_name", "Calendar", "'package_name': 'calendar' is the name of an existing"),
        ("project_name", "FastAPI", "'package_name': 'fastapi' is the name of an existing"),
        ("project_name", "a" * 40, "'project_slug': start with a letter; lower-case letters"),
        ("project_slug", "shop_api", "'project_slug': start with a letter; lower-case letters"),
        ("package_name", "Shop", "'package_name': start with a letter; lower-case letters"),
        ("description", 'a "b"', "'description': one line of at most 160 characters"),
        ("description", "a\nb", "'description': one line of at most 160 characters"),
        ("description", "a" * 161, "'description': one line of at most 160 characters"),
        ("deployment", "swarm", "'deployment': 'swarm' is not in ['kubernetes', 'vm']"),
        ("python_version", "3.10", "'python_version': '3.10' is not in ['3.11', '3.12', "),
        ("python_version", "3.16", "'python_version': '3.16' is not in ['3.11', '3.12', "),
        ("request_timeout_seconds", "0", "'request_timeout_seconds': between 1 and 3600"),
        ("request_timeout_seconds", "3601", "'request_timeout_seconds': between 1 and 3600"),
        ("request_timeout_seconds", "soon", "invalid literal for int() with base 10: 'soon'"),
        ("load_balancer_seconds", "4", "'load_balancer_seconds': between 5 and 300"),
        ("load_balancer_seconds", "301", "'load_balancer_seconds': between 5 and 300"),
        ("route", "nodeport", "'route': 'nodeport' is not in ['httproute', 'ingress']"),
        ("proxy_network", "*", UNUSABLE_NETWORK),
        ("proxy_network", "", UNUSABLE_NETWORK),
        ("proxy_network", "0.0.0.0/0", UNUSABLE_NETWORK),
        ("proxy_network", "10.0.0.0", UNUSABLE_NETWORK),
        ("proxy_network", "10.0.0.1/8", UNUSABLE_NETWORK),
        ("proxy_network", "10.0.0.64/25", UNUSABLE_NETWORK),
        ("proxy_network", "10.0.0.0/33", UNUSABLE_NETWORK),
        ("proxy_network", "10.256.0.0/16", UNUSABLE_NETWORK),
        ("proxy_network", "010.0.0.0/8", UNUSABLE_NETWORK),
        ("proxy_network", "10.0.0.0/8\n", UNUSABLE_NETWORK),
        ("ci", "jenkins", "'ci': 'jenkins' is not in ['github', 'gitlab', 'none']"),
        ("dependency_updates", "pyup", "'pyup' is not in ['renovate', 'dependabot', 'none']"),
    ],
)
def test_invalid_answer_prints_one_line(
    template: Path, tmp_path: Path, question: str, answer: str, line: str
) -> None:
    answers = {"project_name": "Orders API", "deployment": "kubernetes", question: answer}

    with pytest.raises(ValueError, match=re.escape(line)) as refusal:
        render(template, tmp_path / "shop", answers)

    assert "\n" not in str(refusal.value)
    assert not (tmp_path / "shop").exists()


@pytest.mark.parametrize(
    ("data", "line"),
    [
        (["project_name=Orders API"], 'Question "deployment" is required'),
        (["deployment=vm"], 'Question "project_name" is required'),
        (["project_name=Orders API", "deployment=swarm"], "'swarm' is not in ['kubernetes', 'vm']"),
        (["project_name=1shop", "deployment=vm"], UNUSABLE_NAME),
    ],
)
def test_copy_with_an_invalid_answer_prints_the_line_and_fails(
    template: Path, tmp_path: Path, data: list[str], line: str
) -> None:
    done = copy(template, tmp_path / "shop", *data)

    assert done.returncode != 0
    assert line in done.stderr.splitlines()[-1]
    assert not (tmp_path / "shop").exists()


def test_gitlab_has_no_dependabot(template: Path, tmp_path: Path) -> None:
    done = copy(
        template,
        tmp_path / "shop",
        "project_name=Orders API",
        "deployment=vm",
        "ci=gitlab",
        "dependency_updates=dependabot",
    )

    assert done.returncode != 0
    assert "GitLab has no Dependabot: renovate or none" in done.stderr.splitlines()[-1]
    assert not (tmp_path / "shop").exists()


def test_package_named_like_a_standard_module_is_refused(template: Path) -> None:
    """The list in copier.yml is complete for this Python."""
    listed = set((template / "copier.yml").read_text().split())
    importable = {name for name in sys.stdlib_module_names if name.islower() and name[0] != "_"}

    assert importable - listed == set()


def test_copy_keeps_an_existing_file(template: Path, tmp_path: Path) -> None:
    theirs = tmp_path / "README.md"
    theirs.write_text("theirs")

    done = copy(template, tmp_path, "project_name=Orders API", "deployment=vm")

    assert done.returncode != 0
    assert "--overwrite" in done.stderr
    assert theirs.read_text() == "theirs"


@pytest.mark.parametrize(
    ("ci", "by"), [("github", "release.yml"), ("gitlab", ".gitlab-ci.yml"), ("none", None)]
)
def test_copy_prints_three_next_steps_for_its_target(
    template: Path, tmp_path: Path, target: str, ci: str, by: str | None
) -> None:
    shop = tmp_path / "shop"
    output = copy(template, shop, "project_name=Shop", f"deployment={target}", f"ci={ci}").stderr
    _, steps = output.split("\nShop is ready. Next, in its directory:\n")
    lines = steps.rstrip().splitlines()

    assert [line[:5] for line in lines] == ["  1. ", "  2. ", "  3. "]
    assert max(map(len, lines)) <= 80
    assert {"kubernetes": "to the cluster", "vm": "to the host"}[target] in lines[-1]
    files = re.findall(r"[\w./-]+\.(?:md|yml)", lines[-1])
    assert files == ["deploy/README.md", *filter(None, [by])]
    assert {Path(file).name for file in files} <= {file.name for file in shop.rglob("*")}
