"""A Prometheus that scrapes a service and evaluates its rules, and the parts of an expression."""

import json
import re
import shutil
import subprocess
import time
import urllib.parse
import urllib.request
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from .server import free_port
from .wait import WAIT_SECONDS

START_SECONDS = WAIT_SECONDS

STRING = re.compile(r'"(?:[^"\\]|\\.)*"')
SELECTOR = re.compile(r"([a-zA-Z_][\w:]*)\{([^{}]*)\}")
GROUPING = re.compile(r"\b(?:by|without|on|ignoring)\s*\(([^)]*)\)")
RANGE = re.compile(r"\[[^\]]*\]")
FUNCTION = re.compile(r"[a-z_]+\s*\(")


def missing_tools() -> list[str]:
    """Return the missing programs."""
    return [tool for tool in ("prometheus", "promtool") if shutil.which(tool) is None]


@dataclass(frozen=True)
class Prometheus:
    """A running Prometheus."""

    port: int

    def query(self, expression: str) -> list[dict[str, Any]]:
        """Return the series of an expression; raises `OSError` for an invalid one."""
        result: list[dict[str, Any]] = self._get("query", query=expression)["result"]
        return result

    def rules(self) -> list[dict[str, Any]]:
        """Return its rules, with their health."""
        return [rule for group in self._get("rules")["groups"] for rule in group["rules"]]

    def _get(self, what: str, **parameters: str) -> dict[str, Any]:
        query = urllib.parse.urlencode(parameters)
        url = f"http://127.0.0.1:{self.port}/api/v1/{what}?{query}"
        with urllib.request.urlopen(url, timeout=60) as response:
            data: dict[str, Any] = json.load(response)["data"]
            return data


@contextmanager
def scraping(configuration: Mapping[str, object], directory: Path) -> Iterator[Prometheus]:
    """Run Prometheus in an empty directory, at one-second intervals, and wait until ready."""
    intervals = {"scrape_interval": "1s", "evaluation_interval": "1s"}
    (directory / "prometheus.yml").write_text(
        yaml.safe_dump({"global": intervals, **configuration})
    )
    port = free_port()
    log = directory / "log"
    with log.open("wb") as output:
        process = subprocess.Popen(
            [
                "prometheus",
                f"--config.file={directory / 'prometheus.yml'}",
                f"--storage.tsdb.path={directory / 'data'}",
                f"--web.listen-address=127.0.0.1:{port}",
                "--log.level=warn",
            ],
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
        )
    try:
        wait_until_ready(process, port, log)
        yield Prometheus(port)
    finally:
        process.kill()
        process.wait()


def wait_until_ready(process: subprocess.Popen[bytes], port: int, log: Path) -> None:
    """Wait until it is ready. Raises `AssertionError` with its log if it is not."""
    deadline = time.monotonic() + START_SECONDS
    while time.monotonic() < deadline and process.poll() is None:
        try:
            urllib.request.urlopen(f"http://127.0.0.1:{port}/-/ready", timeout=10).close()
        except OSError:
            time.sleep(0.02)
        else:
            return
    raise AssertionError(f"not ready:\n{log.read_text()}")


def promtool(*arguments: str | Path) -> str:
    """Return the findings of promtool; "" for none."""
    result = subprocess.run(["promtool", *arguments], capture_output=True, text=True)
    return result.stdout + result.stderr if result.returncode else ""


# ── Expressions ───────────────────────────────────────────────────────────────────────────────


@dataclass(frozen=True)
class Expression:
    """An expression in which each metric has a selector: `name{…}`."""

    text: str

    @property
    def selectors(self) -> list[str]:
        """Each `name{…}`."""
        return [match[0] for match in SELECTOR.finditer(self.text)]

    @property
    def metrics(self) -> dict[str, set[str]]:
        """The metrics, with the labels in their selectors."""
        found: dict[str, set[str]] = {}
        for name, matchers in SELECTOR.findall(self.text):
            labels = re.findall(r"\w+", re.sub(r"[=!~]+" + STRING.pattern, "", matchers))
            found.setdefault(name, set()).update(labels)
        return found

    @property
    def grouped(self) -> set[str]:
        """The labels in `by (…)`."""
        return {
            label for labels in GROUPING.findall(self.text) for label in re.findall(r"\w+", labels)
        }

    @property
    def bare(self) -> set[str]:
        """Names that may be metrics without a selector."""
        text = self.text
        for known in (GROUPING, SELECTOR, RANGE, STRING, FUNCTION):
            text = known.sub(" ", text)
        return set(re.findall(r"[a-zA-Z_][\w:]*", text)) - {"and", "or"}
