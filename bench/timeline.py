"""Draw docs/kubernetes-shutdown.svg: the shutdown of a pod, to scale, from the rendered files.

.venv/bin/python -m bench.timeline
"""

import itertools
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

import yaml

from tests.harness.project import Project
from tests.harness.server import start_command
from tests.harness.source import constants
from tests.harness.template import ROOT

from .probes import rendered

PICTURE = ROOT / "docs/kubernetes-shutdown.svg"

WIDTH, ROW, BAR = 760, 44, 14
STYLE = """
  text { font: 13px system-ui, sans-serif; fill: #1f2328 }
  .serves { fill: #2da44e } .drains { fill: #bf8700 } .ends { fill: #cf222e }
  @media (prefers-color-scheme: dark) { text { fill: #e6edf3 } }
"""


@dataclass(frozen=True)
class Phase:
    """A phase of a pod's shutdown, in seconds."""

    seconds: float
    what: str
    kind: str


def phases(project: Project) -> list[Phase]:
    """Return the phases of a rendered pod, from its deletion to SIGKILL."""
    base = project.path / "deploy/kubernetes/base/deployment.yaml"
    pod = yaml.safe_load(base.read_text())["spec"]["template"]["spec"]
    pre_stop = pod["containers"][0]["lifecycle"]["preStop"]["sleep"]["seconds"]
    drain = constants(project.path / f"src/{project.package}/serving/lifecycle/drain.py")
    announce, settle = (drain[f"{step}_SECONDS"] for step in ("ANNOUNCE", "SETTLE"))
    command, _ = start_command(project, "", 0)
    in_flight = int(dict(itertools.pairwise(command))["--timeout-graceful-shutdown"])
    left = pod["terminationGracePeriodSeconds"] - (pre_stop + announce + settle + in_flight)
    return [
        Phase(pre_stop, "preStop sleeps: load balancers remove the pod", "serves"),
        Phase(announce, "SIGTERM: readiness returns 503, other requests are served", "serves"),
        Phase(settle, "each response has Connection: close", "drains"),
        Phase(in_flight, "in-flight requests complete; late connections are served", "drains"),
        Phase(left, "at most: lifespan shutdown and exit; then SIGKILL", "ends"),
    ]


def draw(phases: list[Phase]) -> str:
    """Return a row for each phase: its bar, and above it start, end and description."""
    total = sum(phase.seconds for phase in phases)
    shapes, start = [], 0.0
    for row, phase in enumerate(phases):
        end = start + phase.seconds
        left, right = (round(WIDTH * second / total, 1) for second in (start, end))
        top = row * ROW
        late = left > WIDTH / 2
        at = f'x="{right if late else left}" y="{top + 16}"'
        anchor = ' text-anchor="end"' if late else ""
        shapes.append(f"<text {at}{anchor}>{start:g} to {end:g} s  {phase.what}</text>")
        bar = f'x="{left}" y="{top + 22}" width="{round(right - left, 1)}" height="{BAR}"'
        shapes.append(f'<rect class="{phase.kind}" {bar} rx="2"/>')
        start = end
    height = len(phases) * ROW
    box = f"-8 0 {WIDTH + 16} {height}"
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="{box}" role="img">\n'
        f"<title>Shutdown of a pod, from its deletion to SIGKILL after {total:g} s</title>\n"
        f"<style>{STYLE}</style>\n" + "\n".join(shapes) + "\n</svg>\n"
    )


def main() -> None:
    with TemporaryDirectory() as directory:
        PICTURE.write_text(draw(phases(rendered(Path(directory)))))


if __name__ == "__main__":
    main()
