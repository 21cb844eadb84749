"""A pytest plugin: leaves the tests on trio out, and writes the outcome of each test as JSON."""

import json
from pathlib import Path
from typing import Any

import pytest

# A test has three reports (setup, call, teardown). The last of these names decides.
ORDER = ("passed", "skipped", "xfailed", "failed")


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--outcomes", type=Path, required=True, help="the file to write")


def pytest_configure(config: pytest.Config) -> None:
    if not hasattr(config, "workerinput"):  # with xdist, workers report to the controller
        config.pluginmanager.register(Outcomes(config.getoption("--outcomes")))


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """The layer runs on asyncio, as uvicorn does."""
    config.hook.pytest_deselected(items=[item for item in items if on_trio(item)])
    items[:] = [item for item in items if not on_trio(item)]


def on_trio(item: Any) -> bool:
    """Whether a part of the test's id, in its brackets, says so."""
    return hasattr(item, "callspec") and "trio" in item.callspec.id.split("-")


class Outcomes:
    """What came of each test."""

    def __init__(self, file: Path) -> None:
        self.file = file
        self.outcomes: dict[str, str] = {}

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        outcome = "xfailed" if hasattr(report, "wasxfail") else report.outcome
        before = self.outcomes.get(report.nodeid, outcome)
        self.outcomes[report.nodeid] = max(before, outcome, key=ORDER.index)

    def pytest_sessionfinish(self) -> None:
        self.file.write_text(json.dumps(self.outcomes, indent=0))
