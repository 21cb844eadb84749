"""Bar charts as SVG, deterministic for the same figures, in the reader's color scheme.

A row has its name and its figure above its bar, so that a chart is narrow enough for a phone.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any
from xml.sax.saxutils import escape

WIDTH, ROW, BAR, HEAD, GAP, NOTE = 440, 38, 10, 34, 10, 20
STYLE = """
  text { font: 15px system-ui, sans-serif; fill: #1f2328 }
  .head { font-weight: 600 }
  .figure { text-anchor: end; font-variant-numeric: tabular-nums }
  .note { font-size: 12px; opacity: .8 }
  .ours { fill: #2da44e } .other { fill: #8c959f } .bad { fill: #cf222e }
  @media (prefers-color-scheme: dark) { text { fill: #e6edf3 } }
"""


@dataclass(frozen=True)
class Bar:
    """A row: name, figure as length and as text, class in STYLE."""

    name: str
    figure: float
    written: str
    kind: str = "other"


@dataclass(frozen=True)
class Panel:
    """Bars on one scale, below a heading with the unit."""

    head: str
    bars: Sequence[Bar]


@dataclass(frozen=True)
class Chart:
    """A picture: title, description, panels."""

    title: str
    description: str
    panels: Sequence[Panel]


def panel(
    head: str, rows: Sequence[Mapping[str, Any]], key: str, written: str, kinds: Mapping[str, str]
) -> Panel:
    """Return one figure of each row, written as the format says; `kinds` are by the rows' names."""
    return Panel(
        head,
        [
            Bar(row["name"], row[key], written.format(row[key]), kinds.get(row["name"], "other"))
            for row in rows
        ],
    )


def draw(chart: Chart, note: str) -> str:
    """Return the picture, with its source below."""
    shapes, top = [], 0
    for panel in chart.panels:
        longest = max((bar.figure for bar in panel.bars), default=0) or 1
        shapes.append(f'<text class="head" x="0" y="{top + 20}">{escape(panel.head)}</text>')
        top += HEAD
        for bar in panel.bars:
            width = round(WIDTH * bar.figure / longest, 1)
            shapes += [
                f'<text class="name" x="0" y="{top + 14}">{escape(bar.name)}</text>',
                f'<text class="figure" x="{WIDTH}" y="{top + 14}">{escape(bar.written)}</text>',
                f'<rect class="{bar.kind}" x="0" y="{top + 20}" width="{width}" height="{BAR}"'
                ' rx="2"/>',
            ]
            top += ROW
        top += GAP
    shapes.append(f'<text class="note" x="0" y="{top + 12}">{escape(note)}</text>')
    top += NOTE
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="-4 0 {WIDTH + 8} {top}"'
        f' width="{WIDTH + 8}" role="img" aria-labelledby="title description">\n'
        f'<title id="title">{escape(chart.title)}</title>\n'
        f'<desc id="description">{escape(chart.description)}</desc>\n'
        f"<style>{STYLE}</style>\n" + "\n".join(shapes) + "\n</svg>\n"
    )
