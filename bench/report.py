"""Draws the plots in docs/bench and writes the tables in the pages, from bench/results.

    .venv/bin/python -m bench.report

A page has a table between `<!-- bench: NAME -->` and `<!-- /bench -->`: whatever stands there is
replaced. The names are those of the parts' `tables`.
"""

import re
from collections.abc import Callable, Iterator
from typing import Protocol

from tests.harness.template import ROOT

from . import compression, memory, peers, rollout, routes, serving
from .plot import Chart, draw
from .results import RESULTS, Figures, Sizes, Table, markdown, read

PLOTS = ROOT / "docs/bench"
BLOCK = re.compile(r"(?<=^<!-- bench: )([\w-]+) -->\n.*?^(?=<!-- /bench -->$)", re.M | re.S)
OPENING = re.compile(r"^<!-- bench: ", re.M)


class Part(Protocol):
    """The interface of a module that measures."""

    @property
    def FULL(self) -> Sizes:  # noqa: N802
        """How much is measured."""

    @property
    def QUICK(self) -> Sizes:  # noqa: N802
        """How much in a smoke run."""

    @property
    def measure(self) -> Callable[..., Figures]:
        """Takes as many numbers as FULL; gives figures that JSON can hold."""

    def tables(self, figures: Figures) -> dict[str, Table]:
        """Return its tables, by name."""

    def charts(self, figures: Figures) -> dict[str, Chart]:
        """Return its plots, by name."""


PARTS: dict[str, Part] = {
    "serving": serving,
    "routes": routes,
    "peers": peers,
    "compression": compression,
    "memory": memory,
    "rollout": rollout,
}
"""In the order in which they are measured."""


def measured() -> dict[str, Figures]:
    """The result of each part that has been measured."""
    return {part: read(part) for part in PARTS if (RESULTS / f"{part}.json").exists()}


def plots(results: dict[str, Figures]) -> dict[str, str]:
    """Return every plot, by name."""
    return {
        name: draw(chart, _origin(part, result))
        for part, result in results.items()
        for name, chart in PARTS[part].charts(result["figures"]).items()
    }


def blocks(results: dict[str, Figures]) -> dict[str, str]:
    """Return every table, by name, with how it was measured."""
    return {
        name: f"{markdown(table)}\n{_told(part, result)}\n"
        for part, result in results.items()
        for name, table in PARTS[part].tables(result["figures"]).items()
    }


def fill(page: str, tables: dict[str, str]) -> str:
    """A page with its tables; raises `ValueError` for one that there is not, or without an end."""
    if len(OPENING.findall(page)) != len(BLOCK.findall(page)):
        raise ValueError("a <!-- bench: NAME --> has no <!-- /bench -->")

    def table(block: re.Match[str]) -> str:
        if block[1] not in tables:
            raise ValueError(f"bench: {block[1]} is none of {', '.join(sorted(tables))}")
        return f"{block[1]} -->\n{tables[block[1]]}"

    return BLOCK.sub(table, page)


def _origin(part: str, result: Figures) -> str:
    smoke = ": a smoke run, not to be quoted" if result["quick"] else ""
    return f"python -m bench {part}, {result['date'][:10]}{smoke}"


def _told(part: str, result: Figures) -> str:
    """A paragraph: the command, how much, when and where."""
    machine, figures = result["machine"], result["figures"]
    sizes = [
        f"{key}: {figures[key]:,}" for key in ("rounds", "seconds", "requests") if key in figures
    ]
    text = (
        f"`python -m bench {part}` ({', '.join(sizes)}), {result['date']}, {machine['cpu']},"
        f" {machine['cores']} cores, load {machine['load']} before."
    )
    return text + (" **A smoke run: not to be quoted.**" if result["quick"] else "")


def write() -> Iterator[str]:
    """Write all of it; yields the paths that were written."""
    results = measured()
    PLOTS.mkdir(exist_ok=True)
    for name, picture in plots(results).items():
        (PLOTS / f"{name}.svg").write_text(picture)
        yield f"docs/bench/{name}.svg"
    tables = blocks(results)
    for page in [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]:
        old = page.read_text()
        new = fill(old, tables)
        if new != old:
            page.write_text(new)
            yield str(page.relative_to(ROOT))


def main() -> None:
    try:
        print(*write(), sep="\n")
    except ValueError as error:
        raise SystemExit(str(error)) from None


if __name__ == "__main__":
    main()
