"""The pytest plugin of each run: apply the layer, deselect trio, write all outcomes as JSON.

The layer is applied if `LAYER_SUITE` is set: see `layer`.
"""

import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

# A test has three reports (setup, call, teardown). The last of these names decides.
ORDER = ("passed", "skipped", "xfailed", "failed")


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--outcomes", type=Path, required=True, help="the file to write")


def pytest_configure(config: pytest.Config) -> None:
    if "LAYER_SUITE" in os.environ:
        import layer

        layer.apply()
    if not hasattr(config, "workerinput"):  # with xdist, workers report to the controller
        config.pluginmanager.register(Outcomes(config.getoption("--outcomes")))


@pytest.fixture(scope="session", autouse=True)
def layer_in_children() -> Iterator[None]:
    """Apply the layer in Python subprocesses of tests, which import `sitecustomize`."""
    with pytest.MonkeyPatch.context() as patch:
        if "LAYER_SUITE" in os.environ:
            directory = Path(__file__).parent / "children"
            patch.setenv("PYTHONPATH", str(directory), prepend=os.pathsep)
        yield


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Deselect tests on trio: the layer supports asyncio only, like uvicorn."""
    config.hook.pytest_deselected(items=[item for item in items if on_trio(item)])
    items[:] = [item for item in items if not on_trio(item)]


def on_trio(item: Any) -> bool:
    """Return whether the parameters of a test contain trio."""
    return hasattr(item, "callspec") and "trio" in item.callspec.id.split("-")


class Outcomes:
    """Records the outcome of each test."""

    def __init__(self, file: Path) -> None:
        self.file = file
        self.outcomes: dict[str, str] = {}

    def pytest_collection_finish(self, session: pytest.Session) -> None:
        if session.config.option.collectonly:
            self.outcomes = {item.nodeid: "collected" for item in session.items}

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        outcome = "xfailed" if hasattr(report, "wasxfail") else report.outcome
        before = self.outcomes.get(report.nodeid, outcome)
        self.outcomes[report.nodeid] = max(before, outcome, key=ORDER.index)

    def pytest_sessionfinish(self) -> None:
        self.file.write_text(json.dumps(self.outcomes, indent=0))
