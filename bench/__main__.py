"""Measure, store figures in bench/results, draw the plots, write the tables in the pages.

    .venv/bin/python -m bench [--quick] [PART …]

All parts take some ten minutes, on a machine that does nothing else. `--quick` is a smoke run of
some three: what it says is not to be quoted. A part that can't be measured keeps the figures that
it had, and the exit status is 1.
"""

import argparse
import sys
import time

from . import report, results
from .meter import say
from .results import markdown


def main() -> int:
    parser = argparse.ArgumentParser(
        prog="python -m bench", description=(__doc__ or "").split(".")[0]
    )
    parser.add_argument("--quick", action="store_true", help="a smoke run: not to be quoted")
    parser.add_argument("parts", nargs="*", metavar="PART", help=", ".join(report.PARTS))
    options = parser.parse_args()
    if unknown := set(options.parts) - report.PARTS.keys():
        parser.error(f"no such part: {', '.join(sorted(unknown))}")
    failed = []
    begun = time.monotonic()
    for name in options.parts or report.PARTS:
        part, where = report.PARTS[name], results.machine()
        sizes = part.QUICK if options.quick else part.FULL
        command = f"python -m bench.{name} {' '.join(map(str, sizes))}"
        say(f"{name}: {command}")
        try:
            figures = part.measure(*sizes)
        except Exception as error:  # the other parts can still be measured
            failed.append(name)
            say(f"{name}: not measured: {str(error).strip().splitlines()[-1]}")
            continue
        results.write(name, command, options.quick, where, figures)
        for table in part.tables(figures).values():
            print(f"\n{markdown(table)}", flush=True)
    for path in report.write():
        say(f"written: {path}")
    say(f"{(time.monotonic() - begun) / 60:.1f} minutes")
    if failed:
        say(f"not measured, with the figures they had: {', '.join(failed)}")
    return 1 if failed else 0


if __name__ == "__main__":
    try:
        sys.exit(main())
    except KeyboardInterrupt:
        sys.exit("stopped: the parts that were done are kept")
