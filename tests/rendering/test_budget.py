"""Every other timeout is long enough for `request_timeout_seconds`."""

import itertools
import re
from pathlib import Path

import pytest
import yaml

from ..conftest import Render
from ..harness import host
from ..harness.project import Project
from ..harness.server import start_command
from ..harness.source import constants

LIFESPAN_SECONDS = 5
"""Minimum seconds for the end of the lifespan."""

each_budget = pytest.mark.parametrize("seconds", [1, 30, 300])
only_on_vm = pytest.mark.parametrize("target", ["vm"], indirect=True)


def serving(project: Project) -> Path:
    return project.path / "src" / project.package / "serving"


def drain_seconds(project: Project) -> float:
    """Return the seconds from SIGTERM until uvicorn waits for the requests in flight."""
    drain = constants(serving(project) / "lifecycle/drain.py")
    return float(drain["ANNOUNCE_SECONDS"] + drain["CLOSE_SECONDS"] + drain["SETTLE_SECONDS"])


def seconds_of(text: str, pattern: str) -> int:
    """Return the number in the only match of a pattern."""
    [found] = re.findall(pattern, text)
    return int(found)


@pytest.mark.parametrize("balancer", [5, 60])
@each_budget
def test_grace_period_of_a_pod_covers_its_shutdown(
    render: Render, seconds: int, balancer: int
) -> None:
    project = render(
        deployment="kubernetes", request_timeout_seconds=seconds, load_balancer_seconds=balancer
    )
    base = yaml.safe_load((project.path / "deploy/kubernetes/base/deployment.yaml").read_text())
    pod = base["spec"]["template"]["spec"]
    pre_stop = pod["containers"][0]["lifecycle"]["preStop"]["sleep"]["seconds"]
    command, _ = start_command(project, f"{project.package}.app:app", 0)
    options = dict(itertools.pairwise(command))
    in_flight = int(options["--timeout-graceful-shutdown"])

    assert in_flight >= seconds
    assert pre_stop >= balancer
    assert base["spec"]["minReadySeconds"] >= balancer
    assert pod["terminationGracePeriodSeconds"] >= (
        pre_stop + drain_seconds(project) + in_flight + LIFESPAN_SECONDS
    )
    assert int(options["--timeout-keep-alive"]) >= 75

    manifest = project.path / "deploy/kubernetes/components/httproute/httproute.yaml"
    route = yaml.safe_load(manifest.read_text())
    [rule] = route["spec"]["rules"]
    assert rule["timeouts"] == {"request": "0s"}, "the service has the deadline"


@only_on_vm
@each_budget
def test_timeouts_of_a_host_cover_the_shutdown(
    render: Render, project: Project, seconds: int
) -> None:
    """Options as gunicorn prints them, in the virtual environment of another project."""
    rendered = render(deployment="vm", request_timeout_seconds=seconds)
    printed = project.run(
        *(project.program("gunicorn"), "--print-config", "--config"),
        str(rendered.path / "deploy/vm/gunicorn.conf.py"),
    ).stdout
    gunicorn = dict(re.findall(r"^(\w+) += (\d+)$", printed, re.MULTILINE))
    graceful, keepalive = int(gunicorn["graceful_timeout"]), int(gunicorn["keepalive"])
    clean_up = constants(serving(rendered) / "process/worker.py")["CLEANUP_SECONDS"]

    assert clean_up >= LIFESPAN_SECONDS
    assert graceful >= drain_seconds(rendered) + seconds + clean_up
    assert int(gunicorn["timeout"]) > graceful
    assert keepalive >= 75

    [stop] = host.read_unit(host.unit_file(rendered, "service"))["TimeoutStopSec"]
    assert int(stop) > graceful

    site = host.site_file(rendered).read_text()
    # A request may wait for the budget of the last one before a restart, then use its own.
    assert seconds_of(site, r" proxy_read_timeout (\d+)s;") > graceful + seconds
    assert seconds_of(site, r" proxy_send_timeout (\d+)s;") > graceful + seconds
    assert seconds_of(site, r" keepalive_timeout (\d+)s;") < keepalive

    compose = yaml.safe_load((rendered.path / "deploy/vm/compose.yaml").read_text())
    grace = {
        name: seconds_of(service["stop_grace_period"], r"^(\d+)s$")
        for name, service in compose["services"].items()
    }
    assert grace["app"] > graceful
    assert grace["nginx"] > seconds


@only_on_vm
def test_compose_has_tasks_for_the_threads_of_32_workers_twice(project: Project) -> None:
    """The metrics have room for 32 workers; each has its threads, and a reload doubles them."""
    settings = (serving(project) / "settings.py").read_text()
    threads = seconds_of(settings, r"threads: int = Field\(default=(\d+)")
    compose = yaml.safe_load((project.path / "deploy/vm/compose.yaml").read_text())

    assert compose["services"]["app"]["pids_limit"] >= 2 * 32 * (threads + 2)
