"""Many users at once, who do what tests/load/locustfile.py says: `make load`.

A table of what they get is printed while it runs; build/load.html has it with plots. Exit status:
0 all went well, 1 a request failed or there were none, 2 there is nothing to ask.
"""

# mypy: allow-untyped-calls

import argparse
import os
import socket
import sys
from pathlib import Path
from urllib.parse import urlsplit

from locust import events, stats
from locust.env import Environment
from locust.main import main as locust

LOCUSTFILE = Path("tests/load/locustfile.py")
REPORT = Path("build/load.html")

URL = "http://127.0.0.1:8000"  # that of `make run`
# It takes as many seconds until all users are there.
RISE_SECONDS = 5
# Between two points of a plot: Locust's own 5 are too many for half a minute.
PLOT_SECONDS = 1
# How long the last requests may take to end; their users give up after 60 by themselves.
STOP_SECONDS = 65


def main() -> None:
    """Check what was given, then leave it to Locust."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--url", default=URL, help="where the service is, else %(default)s")
    parser.add_argument("--users", type=positive, default=50, help="how many, else %(default)s")
    parser.add_argument("--seconds", type=positive, default=30, help="how long, else %(default)s")
    given = parser.parse_args()
    os.chdir(Path(__file__).resolve().parents[1])
    if fault := unreachable(given.url):
        parser.exit(2, f"{parser.prog}: {given.url}: {fault}\n")
    if not LOCUSTFILE.exists():
        parser.exit(2, f"{parser.prog}: {LOCUSTFILE} is not there: it says what the users do\n")

    stats.HISTORY_STATS_INTERVAL_SEC = PLOT_SECONDS
    events.quitting.add_listener(fail_without_requests)
    events.quit.add_listener(say_where)
    sys.argv = [
        *("locust", "--headless", "--loglevel=WARNING"),
        f"--locustfile={LOCUSTFILE}",
        f"--host={given.url}",
        f"--users={given.users}",
        f"--spawn-rate={given.users / RISE_SECONDS}",
        f"--run-time={given.seconds}s",
        f"--stop-timeout={STOP_SECONDS}s",
        f"--html={REPORT}",
    ]
    locust()


def positive(text: str) -> int:
    """A number from 1 on; raises `ValueError`."""
    if (number := int(text)) < 1:
        raise ValueError
    return number


def unreachable(url: str) -> str | None:
    """One line that says why nobody can be asked there, or None."""
    try:
        address = urlsplit(url)
        port = address.port or {"http": 80, "https": 443}[address.scheme]
        socket.create_connection((address.hostname or "", port), timeout=10).close()
    except (KeyError, ValueError):
        return f"not an address such as {URL}"
    except OSError as error:
        return f"nobody answers ({error.strerror or error}); `make run` starts the service"
    return None


def fail_without_requests(environment: Environment, **_: object) -> None:
    """Nothing asked is nothing proven."""
    if not environment.stats.total.num_requests:
        print("No request was sent.", file=sys.stderr)
        environment.process_exit_code = 1


def say_where(**_: object) -> None:
    """Once the table is printed."""
    print(f"With plots: {REPORT}")


if __name__ == "__main__":
    main()
