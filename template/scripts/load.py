"""Load test with the users of tests/load/locustfile.py: `make load`.

Prints a table while it runs and writes build/load.html, with plots. Exit status: 0 for success,
1 if a request failed or none was sent, 2 if the service cannot be reached.
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
# Seconds until all users have started.
RISE_SECONDS = 5
# Seconds between two points of a plot. Locust's default of 5 is too long for a run of 30 s.
PLOT_SECONDS = 1
# Seconds for the last requests to end. Their clients time out after 60.
STOP_SECONDS = 65


def main() -> None:
    """Check the arguments, then run Locust."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--url", default=URL, help="address of the service (default: %(default)s)")
    parser.add_argument("--users", type=positive, default=50, help="default: %(default)s")
    parser.add_argument("--seconds", type=positive, default=30, help="default: %(default)s")
    arguments = parser.parse_args()
    os.chdir(Path(__file__).resolve().parents[1])
    if fault := unreachable(arguments.url):
        parser.exit(2, f"{parser.prog}: {arguments.url}: {fault}\n")
    if not LOCUSTFILE.exists():
        parser.exit(2, f"{parser.prog}: {LOCUSTFILE} is missing: it defines the users\n")

    stats.HISTORY_STATS_INTERVAL_SEC = PLOT_SECONDS
    events.quitting.add_listener(fail_without_requests)
    events.quit.add_listener(print_report_path)
    sys.argv = [
        *("locust", "--headless", "--loglevel=WARNING"),
        f"--locustfile={LOCUSTFILE}",
        f"--host={arguments.url}",
        f"--users={arguments.users}",
        f"--spawn-rate={arguments.users / RISE_SECONDS}",
        f"--run-time={arguments.seconds}s",
        f"--stop-timeout={STOP_SECONDS}s",
        f"--html={REPORT}",
    ]
    locust()


def positive(text: str) -> int:
    """Return `text` as a number of at least 1. Raises `ValueError`."""
    if (number := int(text)) < 1:
        raise ValueError
    return number


def unreachable(url: str) -> str | None:
    """Return the reason why the service cannot be reached, or None."""
    try:
        address = urlsplit(url)
        port = address.port or {"http": 80, "https": 443}[address.scheme]
        socket.create_connection((address.hostname or "", port), timeout=10).close()
    except (KeyError, ValueError):
        return f"not an address such as {URL}"
    except OSError as error:
        return f"cannot connect ({error.strerror or error}); `make run` starts the service"
    return None


def fail_without_requests(environment: Environment, **_: object) -> None:
    """Fail the run if no request was sent."""
    if not environment.stats.total.num_requests:
        print("No request was sent.", file=sys.stderr)
        environment.process_exit_code = 1


def print_report_path(**_: object) -> None:
    """Print the path of the report, after the table."""
    print(f"Report with plots: {REPORT}")


if __name__ == "__main__":
    main()
