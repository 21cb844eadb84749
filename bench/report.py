"""Draw the plots in docs/bench and write the tables in the pages, from bench/results.

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
    """The interface of a benchmark module."""

    @property
    def FULL(self) -> Sizes:  # noqa: N802
        """Sizes of a full run."""

    @property
    def QUICK(self) -> Sizes:  # noqa: N802
        """Sizes of a smoke run."""

    @property
    def measure(self) -> Callable[..., Figures]:
        """Measure; the arguments are those of FULL. Returns figures as JSON types."""

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
"""The parts, in the order of measurement."""
SIZES = ("rounds", "seconds", "requests", "rate")
"""Keys of the sizes in the results."""


def measured() -> dict[str, Figures]:
    """Return the result of each part that has been measured."""
    return {part: read(part) for part in PARTS if (RESULTS / f"{part}.json").exists()}


def plots(results: dict[str, Figures]) -> dict[str, str]:
    """Return every plot, by name."""
    return {
        name: draw(chart, _origin(part, result))
        for part, result in results.items()
        for name, chart in PARTS[part].charts(result["figures"]).items()
    }


def blocks(results: dict[str, Figures]) -> dict[str, str]:
    """Return every table by name, with a paragraph on its measurement."""
    return {
        name: f"{markdown(table)}\n{_told(part, result)}\n"
        for part, result in results.items()
        for name, table in PARTS[part].tables(result["figures"]).items()
    }


def fill(page: str, tables: dict[str, str]) -> str:
    """Return a page with its tables. Raises `ValueError` for an unknown or unclosed table."""
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
    """Return a paragraph with command, sizes, time and machine."""
    machine, figures = result["machine"], result["figures"]
    sizes = [f"{key}: {figures[key]:,}" for key in SIZES if key in figures]
    text = (
        f"`python -m bench {part}` ({', '.join(sizes)}), {result['date']}, {machine['cpu']},"
        f" {machine['cores']} cores, load {machine['load']} before."
    )
    return text + (" **A smoke run: not to be quoted.**" if result["quick"] else "")


def write() -> Iterator[str]:
    """Write plots and tables; yield the written paths."""
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
