"""Plots, tables and quoted figures are those of bench/results."""

import copy
import re
import subprocess
import sys
import xml.etree.ElementTree as ET
from pathlib import Path

import pytest

from bench import compression, meter, report, rollout, serving, workers
from bench.peers import DOES
from bench.results import Figures

from ..harness.project import Project
from ..harness.server import Server
from ..harness.source import constants
from ..harness.template import ROOT

AGAIN = "draw and write it again: .venv/bin/python -m bench.report"
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]
SVG = "{http://www.w3.org/2000/svg}"

WRK = """\
  Latency Distribution
     50%    1.80ms
     99%    {p99}
  36512 requests in 3.00s, 5.29MB read
{errors}Requests/sec:  12170.13
"""


@pytest.fixture
def results() -> dict[str, Figures]:
    """The stored result of each part."""
    results = report.measured()
    assert results.keys() == report.PARTS.keys()
    return results


def test_each_plot_is_drawn_from_its_figures(results: dict[str, Figures]) -> None:
    drawn = {plot.stem: plot.read_text() for plot in report.PLOTS.iterdir()}

    assert drawn == report.plots(results), AGAIN


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_each_table_in_a_page_matches_its_figures(page: Path, results: dict[str, Figures]) -> None:
    text = page.read_text()

    assert text == report.fill(text, report.blocks(results)), AGAIN


def test_each_sentence_quotes_its_figures(results: dict[str, Figures]) -> None:
    """Sentences outside of the tables; after a new measurement, update them by hand."""
    rows = {
        part: {row["name"]: row for row in result["figures"]["rows"]}
        for part, result in results.items()
    }
    bare, naive, ours = (rows["serving"][name] for name in ("bare", "naive", "complete"))
    rendered, neither = (
        rows["rollout"][name] for name in ("as rendered", "without preStop and drain")
    )
    zstd, br, gzip, nginx = (
        rows["compression"][f"gunicorn and nginx, {who}"]
        for who in (
            "zstd by the service",
            "br by the service",
            "gzip by the service",
            "gzip by nginx",
        )
    )
    four = {
        row["name"]: row["pss_mib"]
        for row in results["memory"]["figures"]["rows"]
        if row["workers"] == 4
    }
    lost = f"{rollout.failures(neither):,} of {rollout.failures(neither) + neither['answered']:,}"
    none = f"{rollout.failures(rendered)} of {rendered['answered']:,}"
    quoted = {
        "README.md": [
            f"{naive['cpu_us'] / bare['cpu_us']:.1f} times the CPU per request",
            f"handles {ours['per_second'] / bare['per_second']:.2f} times the requests per second",
            f"{ours['per_second'] / naive['per_second']:.1f} times those of the naive install",
            lost,
            none,
        ],
        "docs/explanation/shutdown.md": [f"{lost} | {none}"],
        "docs/reference/kubernetes.md": [f"{lost} requests"],
        "docs/explanation/compression.md": [
            f"({nginx['cpu_ms']:.1f} ms per response, in the service {gzip['cpu_ms']:.1f})",
            f"was {nginx['p50_ms']:.0f} ms behind nginx's gzip, {gzip['p50_ms']:.1f} ms with the"
            f" service's gzip and {zstd['p50_ms']:.1f} ms with its zstd",
        ],
        "docs/reference/vm.md": [
            f"{four['as rendered']:.0f} MiB",
            f"{four['without gc.freeze']:.0f} MiB, {four['without preload']:.0f} MiB",
            f"{zstd['cpu_ms']:.1f}, {br['cpu_ms']:.1f}, {gzip['cpu_ms']:.1f};"
            f" {nginx['cpu_ms']:.1f} ms",
            f"{gzip['p50_ms']:.1f}, {nginx['p50_ms']:.1f} ms",
        ],
    }
    for page, sentences in quoted.items():
        text = " ".join((ROOT / page).read_text().split())
        assert [sentence for sentence in sentences if sentence not in text] == [], page


def test_each_plot_and_each_table_is_shown(results: dict[str, Figures]) -> None:
    pages = "".join(page.read_text() for page in PAGES)

    shown = set(re.findall(r"\]\((?:\.\./)?bench/(\w+)\.svg\)", pages))
    assert shown == report.plots(results).keys()
    assert (
        set(re.findall(r"^<!-- bench: ([\w-]+) -->", pages, re.M)) == report.blocks(results).keys()
    )


@pytest.mark.parametrize("part", report.PARTS)
def test_changed_figure_changes_plot_and_table(results: dict[str, Figures], part: str) -> None:
    other = copy.deepcopy(results)
    for row in other[part]["figures"]["rows"] + other[part]["figures"].get("codings", []):
        for key in ("cpu_us", "complete", "kib", "pss_mib", "lost", "cpu_ms"):
            if key in row:
                row[key] = row[key] * 3 + 7

    plots, tables = report.plots(results), report.blocks(results)
    assert report.plots(other).items() != plots.items()
    changed = {name for name, table in report.blocks(other).items() if table != tables[name]}
    assert changed, part
    pages = [page.read_text() for page in PAGES]
    assert [page for page in pages if report.fill(page, report.blocks(other)) != page]


@pytest.mark.parametrize(
    ("page", "said"),
    [
        ("<!-- bench: nowhere -->\n<!-- /bench -->\n", "nowhere is none of"),
        ("<!-- bench: peers -->\nand no end\n", "has no <!-- /bench -->"),
    ],
)
def test_page_with_an_unknown_or_open_table_is_refused(page: str, said: str) -> None:
    with pytest.raises(ValueError, match=said):
        report.fill(page, {"peers": "a table"})


def test_plot_is_valid_svg_with_readable_text(results: dict[str, Figures]) -> None:
    """It has a title for screen readers, and each text fits its width."""
    for name, text in report.plots(results).items():
        picture = ET.fromstring(text)
        for told in ("title", "desc"):
            element = picture.find(SVG + told)
            assert element is not None, name
            assert element.text, name
        assert "prefers-color-scheme: dark" in text
        width = int(picture.attrib["width"])
        lines: dict[str, float] = {}
        for element in picture.iter(f"{SVG}text"):
            wide = 6.2 if element.attrib["class"] == "note" else 7.5  # width of a letter in pixels
            line = element.attrib["y"]
            lines[line] = lines.get(line, 0) + len(element.text or "") * wide
        assert max(lines.values()) < width, name
        assert all(float(bar.attrib["width"]) <= width for bar in picture.iter(f"{SVG}rect"))


def test_smoke_run_is_marked_in_plot_and_table(results: dict[str, Figures]) -> None:
    for quick in (True, False):
        run = {part: {**result, "quick": quick} for part, result in results.items()}
        told = [*report.plots(run).values(), *report.blocks(run).values()]
        assert all(("not to be quoted" in text) == quick for text in told)


def test_features_are_detected_in_the_template_and_none_in_bare(
    results: dict[str, Figures],
) -> None:
    """The same detection finds nothing in the bare application, and everything in ours."""
    does = {row["name"]: row["does"] for row in results["peers"]["figures"]["rows"]}

    assert does["bare"] == does["naive"] == []
    assert does["this template, kubernetes"] == does["this template, vm"] == list(DOES)


def test_names_patched_by_the_bench_exist_in_the_service(project: Project, target: str) -> None:
    replaced = [name for name, _ in serving.WITHOUT.values()]
    names = [f"{project.package}.serving.{name}" for name in replaced]
    if target == "vm":
        names.append(workers.CLASSES["ours"].format(package=project.package))
    program = "import pkgutil, sys\nfor name in sys.argv[1:]:\n    pkgutil.resolve_name(name)"

    project.run(project.program("python"), "-c", program, *names)


def test_codings_in_bold_match_the_service() -> None:
    source = ROOT / "template/src/{{package_name}}/serving/asgi/compression.py"
    levels = constants(source)
    names = {"zstd": "ZSTD_LEVEL", "br": "BROTLI_QUALITY", "gzip": "GZIP_LEVEL"}

    assert {f"{coding}-{levels[name]}" for coding, name in names.items()} == set(compression.OURS)
    assert set(compression.OURS) <= compression.CODINGS.keys()


@pytest.mark.parametrize(
    ("p99", "milliseconds"), [("823.00us", 0.823), ("13.70ms", 13.7), ("1.21s", 1210)]
)
def test_output_of_wrk_is_parsed(p99: str, milliseconds: float) -> None:
    read = meter.read(WRK.format(p99=p99, errors=""))

    assert (read.answered, read.per_second) == (36512, 12170.13)
    assert read.p99 == pytest.approx(milliseconds)


def test_errors_do_not_count_as_responses() -> None:
    with pytest.raises(AssertionError, match="Non-2xx"):
        meter.read(WRK.format(p99="1.00ms", errors="  Non-2xx or 3xx responses: 9\n"))


def test_cpu_of_exited_processes_is_counted(tmp_path: Path) -> None:
    burn = "import time\nwhile time.process_time() < 0.5: pass"
    master = f"import subprocess, sys\nsubprocess.run([sys.executable, '-c', {burn!r}])\n"
    program = master + "print(flush=True)\nsys.stdin.read()"
    with subprocess.Popen(
        [sys.executable, "-c", program],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        start_new_session=True,
    ) as process:
        assert process.stdin
        assert process.stdout
        process.stdout.readline()
        server = Server(process, 0, tmp_path / "log")
        assert len(meter.processes(server)) == 1
        assert meter.cpu_seconds(server) >= 0.4  # the kernel counts in rounded hundredths
        process.stdin.close()


def test_unknown_part_prints_one_line() -> None:
    command = [sys.executable, "-m", "bench", "nowhere"]
    result = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)

    assert result.returncode == 2
    assert result.stderr.endswith("no such part: nowhere\n")
