"""The picture of `copier copy` in a terminal, from a real run.

`python -m tests.harness.recording` writes it.
"""

import fcntl
import os
import pty
import re
import select
import struct
import subprocess
import sys
import termios
from collections.abc import Iterator
from contextlib import suppress
from itertools import groupby
from pathlib import Path
from tempfile import TemporaryDirectory
from xml.sax.saxutils import escape

import pyte
from pyte.screens import Char

from .template import LATEST, ROOT, questions, snapshot

PICTURE = ROOT / "docs/create.svg"

ROWS, COLUMNS = 300, 100
COMMAND = "$ uvx copier copy $TEMPLATE orders-api"
NAME = "Orders API"

LINE, LETTER = 17, 7.25
"""Pixels, of a monospaced font of 12."""
STYLE = """
  text { font: 12px ui-monospace, SFMono-Regular, Menlo, Consolas, monospace; fill: #1f2328 }
  text { white-space: pre }
  rect { fill: none; stroke: #59636e; stroke-width: 1.5 }
  .bold { font-weight: bold } .answer { fill: #8a5a00 } .green { fill: #1a7f37 }
  @media (prefers-color-scheme: dark) {
    text { fill: #e6edf3 } rect { stroke: #9198a1 }
    .answer { fill: #ffaf00 } .green { fill: #3fb950 }
  }
"""
COLOURS = {"ffaf00": "answer", "green": "green"}
"""CSS classes of terminal colours, readable on both backgrounds; others are omitted."""

Line = list[Char]


class Terminal(pyte.Screen):
    """A terminal screen that responds to prompt_toolkit's query for the cursor position."""

    def __init__(self, keyboard: int) -> None:
        super().__init__(COLUMNS, ROWS)
        self.keyboard = keyboard

    def write_process_input(self, data: str) -> None:
        """Send input to the program."""
        os.write(self.keyboard, data.encode())


ASKED = (True, "{{ deployment == 'kubernetes' }}")
"""Values of `ask` of the questions shown with the first choices: Kubernetes, no database."""


def run(template: Path, directory: Path) -> Terminal:
    """Copy the template like a user who enters a name and accepts the defaults.

    Raises `AssertionError` with the screen if a question is missing or the copy fails.
    """
    ours, theirs = pty.openpty()
    fcntl.ioctl(ours, termios.TIOCSWINSZ, struct.pack("HHHH", ROWS, COLUMNS, 0, 0))
    copier = [str(Path(sys.executable).with_name("copier")), "copy", "--vcs-ref", LATEST]
    process = subprocess.Popen(
        [*copier, str(template), "orders-api"],
        cwd=directory,
        env={"HOME": str(directory), "PATH": os.environ["PATH"], "TERM": "xterm-256color"},
        stdin=theirs,
        stdout=theirs,
        stderr=theirs,
        start_new_session=True,
    )
    os.close(theirs)
    screen = Terminal(ours)
    stream = pyte.ByteStream(screen)
    remaining = [
        str(question["help"])
        for question in questions(template).values()
        if "help" in question and question.get("ask", True) in ASKED
    ]
    answers = [NAME] + [""] * (len(remaining) - 1)
    for output in printed(ours):
        stream.feed(output)
        if remaining and remaining[0] in "\n".join(screen.display):
            remaining.pop(0)
            os.write(ours, answers.pop(0).encode() + b"\r")
    with suppress(subprocess.TimeoutExpired):
        process.wait(timeout=60)
    process.kill()
    os.close(ours)
    assert (process.wait(), remaining) == (0, []), "\n".join(screen.display).rstrip()
    return screen


def printed(terminal: int) -> Iterator[bytes]:
    """Yield the output until the program ends, or prints nothing for two minutes."""
    while select.select([terminal], [], [], 120)[0]:
        try:
            output = os.read(terminal, 65536)
        except OSError:  # EIO on Linux: the program has ended
            return
        if not output:
            return
        yield output


def shown(screen: Terminal) -> list[Line]:
    """Return the lines of the picture: one of the files, and no version, which changes."""
    lines = [[Char(letter) for letter in COMMAND]]
    for row in range(screen.cursor.y):
        line = [screen.buffer[row][column] for column in range(COLUMNS)]
        text = "".join(letter.data for letter in line)
        if re.match(r" *(create|identical) ", text):
            if text.rstrip().endswith(" pyproject.toml"):
                lines += [line, [Char(letter) for letter in f"{'…':>13}"]]
        elif text.startswith("Copying from template version "):
            lines.append([*line[:30], Char("…")])
        else:
            lines.append(line)
    while not any(letter.data.strip() for letter in lines[-1]):
        lines.pop()
    return lines


def draw(lines: list[Line]) -> str:
    """Return an SVG of the lines, for light and dark pages."""
    width, height = round(COLUMNS * LETTER) + 24, len(lines) * LINE + 24
    texts = []
    for row, line in enumerate(lines):
        cells = enumerate(line)
        for (colour, bold), run in groupby(cells, lambda cell: (cell[1].fg, cell[1].bold)):
            letters = list(run)
            text = "".join(letter.data for _, letter in letters)
            if not text.strip():
                continue
            left = letters[0][0] + len(text) - len(text.lstrip())
            kinds = " ".join(filter(None, [COLOURS.get(colour), "bold" if bold else None]))
            kind = f' class="{kinds}"' if kinds else ""
            at = f'x="{round(12 + left * LETTER, 2):g}" y="{row * LINE + 24}"'
            texts.append(f"<text {at}{kind}>{escape(text.strip())}</text>")
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" width="{width}"'
        ' role="img">\n'
        f"<title>Questions and output of copier copy</title>\n<style>{STYLE}</style>\n"
        f'<rect x="1" y="1" width="{width - 2}" height="{height - 2}" rx="6"/>\n'
        + "\n".join(texts)
        + "\n</svg>\n"
    )


def record(directory: Path) -> str:
    """Return the picture; `directory` is empty and gets the template and the service."""
    return draw(shown(run(snapshot(directory / "template"), directory)))


def main() -> None:
    """Write the picture."""
    with TemporaryDirectory() as directory:
        PICTURE.write_text(record(Path(directory)))


if __name__ == "__main__":
    main()
