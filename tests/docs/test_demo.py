"""`make demo`: output, failures, and the end of its servers."""

import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from ..harness.template import ROOT

END_SECONDS = 300
"""A demo that has not ended by then fails its test."""


def start_demo(directory: Path, **env: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-m", "tests.demo", str(directory)],
        cwd=ROOT,
        env={**os.environ, **env},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def running_in(directory: Path) -> set[int]:
    """Return the processes whose working directory is below a directory: uv and the servers."""
    found = set()
    for process in Path("/proc").glob("[0-9]*"):
        try:
            if (process / "cwd").readlink().is_relative_to(directory):
                found.add(int(process.name))
        except OSError:  # it has ended, or belongs to another user
            continue
    return found


def nothing_is_left_in(directory: Path) -> bool:
    """Return whether all processes have ended soon after they were killed."""
    deadline = time.monotonic() + 30
    while running_in(directory) and time.monotonic() < deadline:
        time.sleep(0.02)
    return running_in(directory) == set()


def test_shows_both_targets_under_their_servers(tmp_path: Path) -> None:
    demo = start_demo(tmp_path)
    out, err = demo.communicate(timeout=END_SECONDS)

    assert demo.returncode == 0, err
    assert err == ""
    assert nothing_is_left_in(tmp_path)
    for row in (
        r"\n +kubernetes +vm\n",
        r"server +uvicorn [\d.]+ +gunicorn [\d.]+ \+ uvicorn [\d.]+\n",
        r"event loop +uvloop +uvloop\n",
        r"parser +httptools +httptools\n",
        r"workers +1 +[1-9]\d*\n",
        r"health +live 200, ready 200 +live 200, ready 200\n",
        r"bytes plain +92\d,\d{3} +92\d,\d{3}\n",
        r"bytes compressed +1\d\d,\d{3} +1\d\d,\d{3}\n",
        r"ratio +[5-9]\.\d +[5-9]\.\d\n",
    ):
        assert re.search(row, out), row
    for target in ("kubernetes", "vm"):
        place = tmp_path / target
        assert os.path.relpath(place, ROOT) in out.splitlines()[-1]
        assert (place / "README.md").is_file()


@pytest.mark.parametrize(
    ("moment", "sign"),
    [
        ("installing", signal.SIGINT),
        ("starting uvicorn", signal.SIGTERM),
        ("kubernetes: stopping", signal.SIGHUP),
        ("starting gunicorn", signal.SIGINT),
    ],
)
def test_signal_stops_all_started_servers(
    tmp_path: Path, moment: str, sign: signal.Signals
) -> None:
    demo = start_demo(tmp_path)
    assert demo.stdout
    while moment not in demo.stdout.readline():
        assert demo.poll() is None
    while not running_in(tmp_path):
        assert demo.poll() is None

    demo.send_signal(sign)
    demo.send_signal(sign)
    _, err = demo.communicate(timeout=END_SECONDS)

    assert demo.returncode == 128 + sign
    assert err == "Interrupted: all servers are stopped\n"
    assert nothing_is_left_in(tmp_path)


def test_server_that_does_not_start_prints_one_line(tmp_path: Path) -> None:
    broken = tmp_path / "broken"
    broken.mkdir()
    (broken / "uvloop.py").write_text("raise ImportError('uvloop is broken')\n")

    demo = start_demo(tmp_path / "demo", PYTHONPATH=str(broken))
    _, err = demo.communicate(timeout=END_SECONDS)

    assert demo.returncode == 1
    assert re.fullmatch(r"The demo failed: not ready: .*uvloop is broken.*\n", err)
    assert nothing_is_left_in(tmp_path)


def test_unavailable_dependencies_print_one_line(tmp_path: Path) -> None:
    demo = start_demo(tmp_path / "demo", UV_OFFLINE="1", UV_CACHE_DIR=str(tmp_path / "empty"))
    _, err = demo.communicate(timeout=END_SECONDS)

    assert demo.returncode == 1
    assert re.fullmatch(r"The demo failed: uv sync: .*\n", err)
    assert nothing_is_left_in(tmp_path)


def test_existing_directory_is_not_overwritten(tmp_path: Path) -> None:
    (tmp_path / "mine").touch()

    demo = start_demo(tmp_path)
    _, err = demo.communicate(timeout=END_SECONDS)

    assert demo.returncode == 1
    assert err == f"The demo failed: {tmp_path} is not empty\n"
    assert list(tmp_path.iterdir()) == [tmp_path / "mine"]
