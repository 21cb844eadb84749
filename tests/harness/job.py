"""Run the shell steps of a GitHub Actions job locally, with a fake `gh`."""

import json
import os
import re
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from .project import FOREIGN

# Records its arguments and input file; `gh pr list` prints the contents of the file `open`.
GH = f"""#!{sys.executable}
import json, os, pathlib, sys
here = pathlib.Path(__file__).parent
arguments = sys.argv[1:]
body = [a.removeprefix("body=@") for a in arguments if a.endswith("body.md")]
call = dict(arguments=arguments, token=os.environ["GH_TOKEN"])
call["body"] = pathlib.Path(body[0]).read_text() if body else None
with (here / "calls").open("a") as calls:
    calls.write(json.dumps(call) + "\\n")
if arguments[:2] == ["pr", "list"]:
    print((here / "open").read_text(), end="")
"""


@dataclass(frozen=True)
class Call:
    """A call of `gh`."""

    arguments: list[str]
    token: str
    body: str | None


class Runner:
    """A runner of jobs, with a fake `gh`."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.programs = directory / "bin"
        self.programs.mkdir(parents=True)
        (self.programs / "gh").write_text(GH)
        (self.programs / "gh").chmod(0o755)
        self.pull_request_is_open("")

    def pull_request_is_open(self, number: str) -> None:
        """Set the output of `gh pr list`; "" for no pull request."""
        (self.programs / "open").write_text(number)

    def calls(self) -> list[Call]:
        """Return the calls of `gh` since the last call of this method."""
        file = self.programs / "calls"
        lines = file.read_text().splitlines() if file.exists() else []
        file.unlink(missing_ok=True)
        return [Call(**json.loads(line)) for line in lines]

    def run(self, checkout: Path, job: Mapping[str, Any], **secrets: str) -> tuple[int, str]:
        """Run the `run:` steps up to the first failure; return the exit status and the output."""
        known = {f"secrets.{name}": value for name, value in secrets.items()}
        printed = ""
        for step in job["steps"]:
            if "run" not in step or not holds(step.get("if"), known):
                continue
            output = self.directory / "output"
            output.write_text("")
            script = self.directory / "step.sh"
            script.write_text(step["run"])
            variables = {**job.get("env", {}), **step.get("env", {})}
            result = subprocess.run(
                ["bash", "-e", script],
                cwd=checkout,
                env=self.environment(output)
                | {name: expand(value, known) for name, value in variables.items()},
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                text=True,
            )
            printed += result.stdout
            if result.returncode:
                return result.returncode, printed
            for line in output.read_text().splitlines():
                name, _, value = line.partition("=")
                known[f"steps.{step['id']}.outputs.{name}"] = value
        return 0, printed

    def environment(self, output: Path) -> dict[str, str]:
        """Return the environment of a runner, without git identity and user settings."""
        clean = {name: value for name, value in os.environ.items() if name not in FOREIGN}
        path = [str(self.programs), str(Path(sys.executable).parent), os.environ["PATH"]]
        return clean | {
            "PATH": os.pathsep.join(path),
            "GIT_CONFIG_GLOBAL": os.devnull,
            "GIT_CONFIG_SYSTEM": os.devnull,
            "GITHUB_OUTPUT": str(output),
            "RUNNER_TEMP": str(self.directory),
            "UV_OFFLINE": "1",  # dependencies are in the cache
            "UV_PYTHON": sys.executable,
        }


def expand(value: str, known: Mapping[str, str]) -> str:
    """Replace each expression with its value; unknown ones are empty, as on GitHub."""
    return re.sub(r"\$\{\{ (\S+) \}\}", lambda match: known.get(match[1], ""), value)


def holds(condition: str | None, known: Mapping[str, str]) -> bool:
    """Return whether the `if:` of a step is true."""
    if condition is None:
        return True
    comparison = re.fullmatch(r"(\S+) == '(.*)'", condition)
    assert comparison, f"unsupported condition: {condition}"
    return known.get(comparison[1], "") == comparison[2]


def job(workflow: Path, name: str) -> dict[str, Any]:
    """Return a job of a workflow."""
    jobs: dict[str, dict[str, Any]] = yaml.safe_load(workflow.read_text())["jobs"]
    return jobs[name]
